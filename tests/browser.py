"""A real browser without a window, spoken to through pipes: no driver and no library."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from importlib.resources import files

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SECONDS = 60
AXE = files("axe_core_python") / "axe.min.js"
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None or shutil.which("bash") is None,
    reason="needs chromium (apt-get install chromium), which shows the page",
)


class Browser:
    """One page at a time in a headless Chromium, by its DevTools protocol.

    Messages are JSON, each ended by a zero byte; the browser reads from its handle 3 and writes
    to its handle 4.
    """

    def __init__(self, folder):
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        # Above 4, so that laying them out as 3 and 4 overwrites neither.
        ends = [os.dup(end) for end in (commands, answers)]
        while min(ends) <= 4:
            ends = [os.dup(end) for end in ends]
        shell = f'exec {CHROMIUM} "$@" 3<&{ends[0]} 4>&{ends[1]}'
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
            "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
            f"--user-data-dir={folder}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "chromium", *options],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (commands, answers, *ends):
            os.close(end)
        self._rest, self._number, self.session, self._script = b"", 0, None, True
        self.complaints = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        """Return what the browser answers to a command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.complaints.append(answer["params"])

    def _receive(self):
        until = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            assert select.select([self._read], [], [], until - time.monotonic())[0], "no answer"
            part = os.read(self._read, 1 << 16)
            assert part, "the browser has gone"
            self._rest += part
        first, self._rest = self._rest.split(b"\0", 1)
        return json.loads(first)

    def open(self, address, width=1280, dark=False, script=True, media=""):
        """Load a page as a screen of a width shows it."""
        self.complaints, self._script = [], script
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", media=media, features=scheme)
        self.send("Emulation.setScriptExecutionDisabled", value=not script)
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=address)
        until = time.monotonic() + SECONDS
        while self.value("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < until
            time.sleep(0.05)
        self.settle()

    def value(self, expression):
        """Return the value of an expression in the page."""
        found = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def settle(self):
        """Wait until what was asked for is drawn."""
        if not self._script:  # which would say so
            time.sleep(0.3)
            return
        frames = "new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"
        self.value(f"{frames}.then(() => 0)")

    def type(self, selector, value, event="change"):
        """Enter a value as a person would, and wait until the page has drawn it."""
        self.value(
            f"(() => {{ const e = document.querySelector({selector!r});"
            f" e.value = {json.dumps(value)}; e.dispatchEvent(new Event({event!r})); }})()"
        )
        self.settle()

    def mouse(self, kind, x, y):
        """Press, move or release the mouse."""
        pressed = {} if kind == "mouseReleased" else {"buttons": 1}
        self.send(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1, **pressed
        )

    def picture(self, path):
        """Save what the whole page looks like."""
        taken = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def key(self, name, code):
        """Press and release a key, as its name and its number have it."""
        letter = {"text": "\r"} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            given = letter if kind == "keyDown" else {}
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=code, **given
            )
        self.settle()

    def violations(self):
        """Return what axe-core has against the page, a line for each element."""
        self.value(f"{AXE.read_text(encoding='utf-8')}; 0")
        found = self.value(
            "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)"
        )
        return [f"{one['id']}: {node['html'][:160]}" for one in found for node in one["nodes"]]

    def paper(self):
        """Return the page as a printer gets it, a PDF."""
        return base64.b64decode(self.send("Page.printToPDF")["data"])

    def close(self):
        """End the browser."""
        self.session = None
        with contextlib.suppress(AssertionError, OSError):
            self.send("Browser.close")
        self._process.wait(SECONDS)
        os.close(self._write)
        os.close(self._read)
