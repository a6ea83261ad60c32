"""Chromium without a window, driven over a pipe by the Chrome DevTools Protocol; no driver package is needed.

The browser is `$EDGEQ_CHROMIUM`, or the first of `chromium`, `chromium-browser` and `google-chrome` on the path. The
tests were written with Debian's package (`apt-get install chromium`); `docs/fetch_chromium.sh FOLDER` unpacks it
without root.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_TIMEOUT_S = 60.0
_END_S = 5.0


def find_browser() -> str | None:
    """Returns the path of a Chromium; `None` where there is none."""
    named = os.environ.get("EDGEQ_CHROMIUM")
    return named or next((found for name in _NAMES if (found := shutil.which(name))), None)


class BrowserError(Exception):
    """The browser did not start, died, or a script in the page failed."""


class Browser:
    """One page of a browser without a window. A context manager: the browser ends with it.

    Args:
        program: Path of the browser, see `find_browser`.

    Attributes:
        complaints: What the page wrote to the console as an error or a warning, exceptions, and every request that
            was refused.
        requests: Addresses that the page asked for, the page's own among them.
    """

    def __init__(self, program: str) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._profile = tempfile.TemporaryDirectory(prefix="edgeq-browser-", ignore_cleanup_errors=True)
        to_browser, self._commands = os.pipe()
        self._answers, from_browser = os.pipe()
        arguments = [
            program,
            "--headless=new",
            "--remote-debugging-pipe",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            f"--user-data-dir={self._profile.name}",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # it refuses to run as root otherwise
            "about:blank",
        ]
        # The browser reads commands from descriptor 3 and answers on 4. The pipes go by numbers above these first, so
        # that neither lies in the other's way.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_browser, from_browser)]
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        moves = [(nothing, 0), (nothing, 1), (nothing, 2), (ends[0], 3), (ends[1], 4)]
        actions = [(os.POSIX_SPAWN_DUP2, source, target) for source, target in moves]
        self._pid = os.posix_spawnp(program, arguments, os.environ, file_actions=actions)
        for end in (to_browser, from_browser, *ends, nothing):
            os.close(end)
        self._received = b""
        self._number = 0
        self._session: str | None = None
        self._loaded = False

    def __enter__(self) -> Browser:
        targets = self._ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._commands)
        deadline = time.monotonic() + _END_S
        while os.waitpid(self._pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.02)
        os.close(self._answers)
        self._profile.cleanup()

    def open(self, page: Path, width_px: int, height_px: int, *, dark: bool = False, media: str = "screen") -> None:
        """Loads a file in a window of a size, as a system in light or dark would show it."""
        self.resize(width_px, height_px)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._loaded = False
        self._ask("Page.navigate", url=page.resolve().as_uri())
        deadline = time.monotonic() + _TIMEOUT_S
        while not self._loaded:
            if time.monotonic() > deadline:
                raise BrowserError(f"{page} was not loaded in {_TIMEOUT_S:.0f} s")
            self._receive()

    def resize(self, width_px: int, height_px: int) -> None:
        """Changes the size of the window, in the pixels of CSS."""
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width_px, height=height_px, deviceScaleFactor=1, mobile=False
        )

    def run(self, script: str) -> Any:
        """Returns the value of a JavaScript expression in the page."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Presses and releases a key, such as `Tab` or `Enter`."""
        text = {"Enter": "\r", " ": " "}.get(key)
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if text and kind == "keyDown" else {}
            codes = {"Enter": 13, "Tab": 9, " ": 32}
            self._ask(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes.get(key, 0), **extra
            )

    def screenshot(self, file: Path, clip: Sequence[float] | None = None) -> None:
        """Writes a PNG of the window, or of a part of the page: left, top, width, height."""
        extra: Mapping[str, Any] = {}
        if clip is not None:
            left, top, width, height = clip
            extra = {
                "clip": {"x": left, "y": top, "width": width, "height": height, "scale": 1},
                "captureBeyondViewport": True,
            }
        answer = self._ask("Page.captureScreenshot", format="png", **extra)
        file.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self, file: Path) -> None:
        """Writes the page as it prints."""
        answer = self._ask("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        file.write_bytes(base64.b64decode(answer["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error'].get('message')}")
                found: dict[str, Any] = answer["result"]
                return found

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            block = os.read(self._answers, 1 << 20)
            if not block:
                raise BrowserError("the browser ended")
            self._received += block
        line, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, said: Mapping[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(said["args"]))
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(said["exceptionDetails"]))
        elif event == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(said["entry"].get("text")))
        elif event == "Network.requestWillBeSent":
            self.requests.append(str(said["request"]["url"]))
