"""A page in a real browser without a window: Chromium, driven by its DevTools protocol over a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe"
SECONDS = 60
# The contrast of every text that is seen with what lies behind it (WCAG 2): text -> ratio.
CONTRAST = """(() => {
  const rgba = colour => {
    const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = element => {
    const [r, g, b, a] = rgba(getComputedStyle(element).backgroundColor);
    if (a === 1) return [r, g, b];
    const below = element.parentElement ? over(element.parentElement) : [255, 255, 255];
    return [r, g, b].map((v, i) => v * a + below[i] * (1 - a));
  };
  const light = colour => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const v = colour[i] / 255;
    return sum + weight * (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  }, 0);
  const found = {}, walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || element.closest("script, style")) continue;
    const [a, b] = [light(rgba(getComputedStyle(element).color)), light(over(element))].sort((x, y) => y - x);
    found[text] = Math.min(found[text] ?? 21, (a + 0.05) / (b + 0.05));
  }
  return found;
})()"""


class Page:
    """A page that is shown."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = os.fdopen(commands, "wb", 0), os.fdopen(answers, "rb")
        self._buffer, self._number, self._session = b"", 0, {}
        self.events: list[dict[str, Any]] = []

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._answers], [], [], SECONDS)[0], "the browser does not answer"
            part = os.read(self._answers.fileno(), 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to a command; what happens meanwhile is kept in `events`."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params, **self._session}
        self._commands.write(json.dumps(command).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def open(self, path: Path, width: int, scheme: str) -> None:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        mobile = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=mobile)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def evaluate(self, expression: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """With the mouse, where the first such element is."""
        place = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{place}.scrollIntoView({{block: 'center', inline: 'center'}})")
        x, y = self.evaluate(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({place}.getBoundingClientRect())")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """With the keyboard, where the cursor is."""
        self.send("Input.insertText", text=text)

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings in the console."""
        wanted = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [json.dumps(event) for event in self.events if event.get("method") in wanted]


@contextmanager
def shown(path: Path, width: int = 1200, scheme: str = "light") -> Iterator[Page]:
    """A page in a browser of its own.

    Args:
        path: the HTML file.
        width: of the window, in CSS pixels; below 600 it is a telephone's.
        scheme: light or dark.
    """
    (to_read, commands), (answers, to_write) = os.pipe(), os.pipe()
    # Above 4, since the browser reads from 3 and writes to 4.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, to_write)]
    command = f"exec {CHROMIUM} {OPTIONS} 3<&{ends[0]} 4>&{ends[1]}"
    browser = subprocess.Popen(["bash", "-c", command], pass_fds=ends, stderr=subprocess.DEVNULL)
    for end in (to_read, to_write, *ends):
        os.close(end)
    try:
        page = Page(commands, answers)
        page.open(path, width, scheme)
        yield page
    finally:
        browser.kill()
        browser.wait()
