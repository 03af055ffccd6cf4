"""Chromium without a window, controlled through the DevTools protocol: one process that shows page after page."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path

import websocket

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
_FLAGS += ["--remote-allow-origins=*", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
_TIMEOUT = 60  # seconds


class Browser:
    """One tab of a running browser.

    Attributes:
        requests: the URLs that the current page has requested, except "data:" URLs.
        messages: its console messages, log entries and exceptions.
    """

    def __init__(self, endpoint: str) -> None:
        self.requests: list[str] = []
        self.messages: list[dict] = []
        self._numbers = itertools.count(1)
        self._session = None
        self._events: list[str] = []
        self._socket = websocket.create_connection(endpoint, timeout=_TIMEOUT)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        self._socket.send(json.dumps({"id": number, "method": method, "params": params} | session))
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def _receive(self) -> dict:
        message = json.loads(self._socket.recv())
        method, params = message.get("method", ""), message.get("params", {})
        self._events.append(method)
        if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith("data:"):
            self.requests.append(params["request"]["url"])
        if method in {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}:
            self.messages.append(params)
        return message

    def show(self, url: str, width: int, height: int, scheme: str) -> None:
        """Load a page in a viewport of a size, for a reader who prefers a light or a dark scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for record in (self.requests, self.messages, self._events):
            record.clear()
        self.call("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._events:
            self._receive()

    def evaluate(self, expression: str, *, wait: bool = False):
        """Return the value of a JavaScript expression in the page, None for undefined; `wait` for a promise."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=wait)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str, is_done):
        """Return the value of an expression once `is_done` of it."""
        deadline = time.monotonic() + _TIMEOUT
        while not is_done(value := self.evaluate(expression)):
            assert time.monotonic() < deadline, value
            time.sleep(0.05)
        return value

    def screenshot(self) -> bytes:
        """Return the viewport as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def open_browser(profile: Path):
    """Start a browser with an empty profile and yield it."""
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _TIMEOUT
        address = profile / "DevToolsActivePort"
        while not (address.is_file() and address.read_text().count("\n") == 1):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        port, path = address.read_text().split("\n")
        browser = Browser(f"ws://127.0.0.1:{port}{path}")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.terminate()
        process.wait(_TIMEOUT)
