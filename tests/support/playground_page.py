"""Pages of the playground in a browser: written, opened, clicked on."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from browser import Browser

from gpucnn import manual_seed, nn, no_grad, tensor
from gpucnn.playground import Subject, playground

GREY, COLOUR, ODD = (1, 28, 28), (3, 32, 32), (3, 13, 9)


def images(shape: tuple[int, int, int], count: int) -> Any:
    return np.random.default_rng(7).normal(size=(count, *shape)).astype(np.float32)


def seasoned(make: Any, shape: tuple[int, int, int]) -> Any:
    """Return a network whose batch normalisation has seen some images."""
    manual_seed(3)
    net = make()
    with no_grad():
        for _ in range(2):
            net.train()(tensor(images(shape, 8) * 1.5 + 0.5))
    return net.eval()


def until(window: Browser, condition: str) -> None:
    """Wait until a JavaScript expression is true."""
    for _ in range(600):
        if window.evaluate(f"Boolean({condition})"):
            return
        time.sleep(0.05)
    raise TimeoutError(f"never true: {condition}")


def settle(window: Browser) -> None:
    """Wait until the page shows what was asked of it."""
    until(window, "window.playground?.refreshes && playground.idle")


def shown(window: Browser, path: Path, net: nn.Module, shape: Any, classes: int, **more: Any) -> None:
    """Write the page of a network and open it, with the network cut off."""
    names = [f"class {k}" for k in range(classes)]
    C = shape[0]
    path.write_text(playground(Subject("mine", "about", net, names, shape, [0.2] * C, [0.5] * C, **more)))
    window.ask("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    window.open(path)
    settle(window)


def as_script(array: Any) -> str:
    """Return a float32 array as a JavaScript expression of a Float32Array."""
    text = base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()
    return f'new Float32Array(Uint8Array.from(atob("{text}"), (c) => c.charCodeAt(0)).buffer)'


def place(window: Browser, selector: str) -> tuple[float, float, float, float]:
    """Return left, top, width and height of an element that is scrolled into view."""
    left, top, width, height = window.evaluate(
        f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}}); "
        "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
    )
    return left, top, width, height


def mouse(window: Browser, kind: str, x: float, y: float) -> None:
    buttons = 0 if kind == "mouseMoved" else 1
    window.ask(
        "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left" if buttons else "none", clickCount=buttons
    )


def click(window: Browser, selector: str, across: float = 0.5, down: float = 0.5) -> None:
    left, top, width, height = place(window, selector)
    x, y = left + across * width, top + down * height
    mouse(window, "mousePressed", x, y)
    mouse(window, "mouseReleased", x, y)
    settle(window)


def key(window: Browser, name: str, text: str = "") -> None:
    window.ask("Input.dispatchKeyEvent", type="keyDown", key=name, **({"text": text} if text else {}))
    window.ask("Input.dispatchKeyEvent", type="keyUp", key=name)
    settle(window)
