"""Random numbers that can be saved as two integers: a seed and how many draws were made from it."""

from __future__ import annotations

from dataclasses import dataclass

from gpucnn.errors import ParameterError


@dataclass
class Generator:
    """A stream of keys for counter-based bit generators; each draw of an array takes one key.

    The state is ``(seed, counter)``, so that a checkpoint keeps it exactly and every backend shares it.

    >>> generator = Generator(7)
    >>> generator.next_key(), generator.next_key()
    ([7, 0], [7, 1])
    """

    seed: int = 0
    counter: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**63:
            raise ParameterError.expected("Generator", "seed", "an integer from 0 to 2**63 - 1", repr(self.seed))

    def next_key(self) -> list[int]:
        """Return the next key and advance."""
        key = [self.seed, self.counter]
        self.counter += 1
        return key

    def manual_seed(self, seed: int) -> None:
        """Start again from ``seed``; ParameterError where it is not an integer from 0 to 2**63 - 1."""
        fresh = Generator(seed)
        self.seed, self.counter = fresh.seed, fresh.counter


default_generator = Generator(0)
"""What layers and initialisers draw from when they are given no generator of their own."""


def manual_seed(seed: int) -> Generator:
    """Seed the default generator (initial weights, dropout) and return it.

    >>> manual_seed(3).seed
    3
    """
    default_generator.manual_seed(seed)
    return default_generator
