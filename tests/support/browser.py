"""A headless Chromium, where one is installed, driven through its debugging pipe: no driver and no network."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

PHONE, DESK = (390, 844), (1280, 900)

LEAST_CONTRAST = 4.5
"""Between text and what is behind it: the Web Content Accessibility Guidelines' level AA."""

CONTRASTS = """
(() => {
  const parse = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { const c = parse(getComputedStyle(e).backgroundColor);
    const a = c.length > 3 ? c[3] : 1; if (a == 1) return c;
    const under = e.parentElement ? behind(e.parentElement) : [255, 255, 255];
    return [0, 1, 2].map(i => a * c[i] + (1 - a) * under[i]); };
  const texts = [...document.body.querySelectorAll('*')].filter(
    e => !e.closest('svg') && [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()));
  return Math.min(...texts.map(e => { const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(behind(e))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); }));
})()
"""


def find() -> str | None:
    """Return the path of a browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser process. ``open`` a file; then ask ``evaluate``, look at ``problems`` or take a ``screenshot``."""

    def __init__(self, profile: Path) -> None:
        self._ids = itertools.count(1)
        self._events: list[dict[str, Any]] = []
        self._rest = b""
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [
            find() or "", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={profile}",
        ]  # fmt: skip
        # It reads its orders from file 3 and writes the answers to file 4; the shell puts the pipes there.
        redirect = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", *command],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send an order and return what it gave."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]  # type: ignore[no-any-return]
            self._events.append(answer)

    def _read(self, seconds: float = 60) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], max(end - time.monotonic(), 0))[0]:
                raise TimeoutError("the browser does not answer")
            part = os.read(self._in, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)  # type: ignore[no-any-return]

    def open(self, page: Path | str, size: tuple[int, int] = DESK, dark: bool = False) -> None:
        """Load a page, by path or address, in a window of this size and wait until it is there."""
        self._events.clear()
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.ask("Emulation.setEmulatedMedia", features=scheme)
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=size[0], height=size[1], deviceScaleFactor=1, mobile=size[0] < 600,
        )  # fmt: skip
        gone = self.ask("Page.navigate", url=page if isinstance(page, str) else page.absolute().as_uri())
        if "errorText" in gone:
            raise RuntimeError(f"{page}: {gone['errorText']}")
        self.wait_for_load()

    def wait_for_load(self, seconds: float = 30) -> None:
        """Wait until a page has been loaded since this was last true."""
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._read(seconds))
        self._events = [event for event in self._events if event["method"] != "Page.loadEventFired"]

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page; RuntimeError where it throws."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "thrown"))
        return answer["result"].get("value")

    @property
    def problems(self) -> list[str]:
        """What the console said of the page, and what it asked for outside of itself."""
        self.evaluate("0")  # whatever was on its way has come by then
        said = []
        for event in self._events:
            params = event.get("params", {})
            if event["method"] == "Log.entryAdded":
                said.append(params["entry"]["text"])
            elif event["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                said.append(json.dumps(params))
            elif event["method"] == "Network.requestWillBeSent":
                address = params["request"]["url"]
                if not address.startswith("data:") and params.get("type") != "Document":
                    said.append(f"asked for {address}")
        return said

    def screenshot(self, path: Path) -> None:
        """Save an image of the whole page as PNG."""
        width, height = self.evaluate("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            del self._session
            self.ask("Browser.close")
        self._process.wait(30)
        os.close(self._in)
        os.close(self._out)
