"""System 2's experiment: one convolution, forward, backward and an SGD step, worked by hand. It needs no data.

python scripts/system_2.py --device cuda
"""

import click
import numpy as np

import gpucnn
from gpucnn import nn, optim

IMAGE = """01102 22221 10020 01100 12002   10220 00020 12121 10000 12111   21200 10010 02101 01222 21001"""
FILTERS = """-1 1 0  0 1 0  0 1 1   -1 -1 0  0 0 0  0 -1 0   0 0 -1  0 1 0  1 -1 -1
              1 1 -1  -1 -1 1  0 -1 1   0 1 0  -1 0 -1  -1 1 0   -1 0 0  -1 0 1  -1 0 0"""
OUTPUT = "6 7 5  3 -1 -1  2 -1 4   2 -5 -8  1 -4 -4  0 -5 -5"
OUTPUT_GRADIENT = "0 1 1  2 2 2  1 0 0   1 0 2  0 0 0  1 2 1"
FILTERS_AFTER = """-1.008 .99 -.009  -.005 .994 -.006  -.006 .995 .996
                   -1.004 -1.001 -.004  -.01 -.009 -.012  -.002 -1.002 -.002
                   -.002 -.002 -1.003  -.005 .992 -.005  .993 -1.008 -1.007
                   .998 .998 -1.001  -1.004 -1.007 .997  -.004 -1.004 .998
                   0 .999 0  -1.009 -.005 -1.004  -1.004 1 0
                   -1.004 -.006 -.005  -1.002 -.005 .998  -1.002 -.001 0"""


def numbers(text: str, *shape: int) -> np.ndarray:
    return np.array(text.split(), np.float32).reshape(shape)


@click.command(help=__doc__)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
def main(device: str) -> None:
    gpucnn.use(device)
    image = gpucnn.tensor(np.array([*IMAGE.replace(" ", "")], np.float32).reshape(3, 5, 5))
    conv = nn.Conv2d(3, 2, kernel_size=3, stride=2, padding=1)
    conv.load_state_dict({"weight": numbers(FILTERS, 2, 3, 3, 3), "bias": np.array([1, 0])})
    optimizer = optim.SGD(conv.parameters(), lr=0.001)
    output = conv(image)
    output.backward(gpucnn.tensor(numbers(OUTPUT_GRADIENT, 2, 3, 3)))
    optimizer.step()

    state = conv.state_dict()
    print(f"output:\n{output.numpy()}\nfilters after one step of 0.001:\n{state['weight']}\nbiases: {state['bias']}")
    wrong = [
        abs(output.numpy() - numbers(OUTPUT, 2, 3, 3)).max(),
        abs(state["weight"] - numbers(FILTERS_AFTER, 2, 3, 3, 3)).max(),
        abs(state["bias"] - [0.991, -0.007]).max(),
    ]
    print("largest difference from the published figures: output {:g}, filters {:.6f}, biases {:.6f}".format(*wrong))


if __name__ == "__main__":
    main()
