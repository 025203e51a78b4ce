"""Random numbers that can be saved as two integers: a seed and how many draws were made from it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from gpucnn.checks import is_count, shown
from gpucnn.errors import ParameterError


@dataclass
class Generator:
    """A stream of keys for counter-based bit generators; each draw of an array takes one key.

    The state is ``(seed, counter)``. A checkpoint stores it exactly, and every device shares it.

    >>> generator = Generator(7)
    >>> generator.next_key(), generator.next_key()
    ([7, 0], [7, 1])
    """

    seed: int = 0
    counter: int = 0

    def __post_init__(self) -> None:
        if not is_count(self.seed, 0, 2**63 - 1):
            raise ParameterError.expected("Generator", "seed", "an integer from 0 to 2**63 - 1", shown(self.seed))
        self.seed = int(self.seed)  # a checkpoint cannot store NumPy's integers
        self.mirrors: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        """For each device that draws from it, the copy of the state there."""

    def __reduce__(self) -> Any:
        return type(self), (self.seed, self.counter)

    def next_key(self) -> list[int]:
        """Return the next key and advance."""
        key = [self.seed, self.counter]
        self.counter += 1
        return key

    def manual_seed(self, seed: int) -> None:
        """Restart from ``seed``; ParameterError if it is not an integer from 0 to 2**63 - 1."""
        fresh = Generator(seed)
        self.seed, self.counter = fresh.seed, fresh.counter


default_generator = Generator(0)
"""The process's generator. Threads draw from it, except within ``drawing_from``."""

_thread = threading.local()


def current_generator() -> Generator:
    """Return the generator that layers and initialisers use in this thread when they are given none."""
    return getattr(_thread, "generator", None) or default_generator


@contextmanager
def drawing_from(generator: Generator) -> Iterator[Generator]:
    """Within the block, this thread draws from ``generator`` instead of the process's.

    >>> with drawing_from(Generator(7)):
    ...     current_generator().next_key()
    [7, 0]
    """
    before = getattr(_thread, "generator", None)
    _thread.generator = generator
    try:
        yield generator
    finally:
        _thread.generator = before


def manual_seed(seed: int) -> Generator:
    """Seed the generator that this thread draws from (initial weights, dropout) and return it.

    It is the process's generator, except within ``drawing_from``, which ``Classifier.fit`` and ``Trainer`` use.

    >>> manual_seed(3).seed
    3
    """
    generator = current_generator()
    generator.manual_seed(seed)
    return generator
