"""A headless Chromium, driven over its DevTools protocol: pages are opened, read and looked at."""

import base64
import io
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import matplotlib.image
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # which root can't have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no page may need a network
    "--remote-debugging-port=0",
)


def wait_for(look, seconds, what):
    """Return what `look()` gives once that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.1)
    pytest.fail(f"{what} did not come in {seconds} s")


class Chromium:
    """The browser; a context manager, with a new profile in `folder`."""

    def __init__(self, folder):
        self.program = next(filter(None, map(shutil.which, NAMES)), None)
        if self.program is None:
            pytest.skip("there is no Chromium; apt-get install chromium")
        self.client = pytest.importorskip("websocket", reason="pip install websocket-client")
        self.folder = Path(folder)

    def __enter__(self):
        self.process = subprocess.Popen(
            [self.program, *FLAGS, f"--user-data-dir={self.folder}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        told = self.folder / "DevToolsActivePort"
        wait_for(lambda: told.exists() and told.read_text().count("\n"), 60, "Chromium")
        self.port = told.read_text().split()[0]
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait(30)

    def page(self):
        """Return a new page."""
        url = f"http://127.0.0.1:{self.port}/json/new"
        request = urllib.request.Request(url, method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            target = json.load(answer)
        address = target["webSocketDebuggerUrl"]
        return Page(self.client.create_connection(address, timeout=60, suppress_origin=True))


class Page:
    """A page: what it asked for is in `requests`, what its scripts complained of in `errors`."""

    def __init__(self, socket):
        self.socket, self.numbers = socket, itertools.count(1)
        self.requests, self.errors, self.loads = [], [], 0
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Return the answer to a command of the protocol."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self.take(message.get("method"), message.get("params", {}))

    def take(self, event, params):
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Page.loadEventFired":
            self.loads += 1
        elif event == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["text"])

    def close(self):
        self.call("Page.close")
        self.socket.close()

    def size(self, width, height, *, dark=False, phone=False):
        scale = 2 if phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url):
        """Go to a page, and wait until it has loaded."""
        loads = self.loads
        self.call("Page.navigate", url=url)
        wait_for(lambda: self.evaluate("1") and self.loads > loads, 60, url)

    def evaluate(self, script):
        """Return what an expression of JavaScript gives."""
        given = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in given, given["exceptionDetails"]
        return given["result"].get("value")

    def wait(self, script, seconds):
        """Return what an expression gives once that is true."""
        return wait_for(lambda: self.evaluate(script), seconds, script)

    def texts(self, selector):
        """Return the text of each element that a selector finds."""
        return self.evaluate(
            f"[...document.querySelectorAll({selector!r})].map(each => each.innerText.trim())"
        )

    def pictures(self, selector="img"):
        """Return width and height of each picture in pixels of its own, 0 where it is broken."""
        return self.evaluate(
            f"[...document.querySelectorAll({selector!r})].map(each => "
            "each.complete ? [each.naturalWidth, each.naturalHeight] : [0, 0])"
        )

    def look(self, selector=None, path=None):
        """Return what can be seen, as an array (height, width, 3) in [0, 1].

        Args:
            selector: Only the first element that it finds.
            path: Where to keep the picture.
        """
        params = {}
        if selector is not None:
            found = f"document.querySelector({selector!r})"
            self.evaluate(f"{found}.scrollIntoView({{block: 'center'}})")
            box = self.evaluate(
                f"(() => {{ const box = {found}.getBoundingClientRect(); return "
                "{x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height}"
                "; })()"
            )
            params = {"clip": {**box, "scale": 1}}
        shot = base64.b64decode(self.call("Page.captureScreenshot", format="png", **params)["data"])
        if path is not None:
            Path(path).write_bytes(shot)
        return matplotlib.image.imread(io.BytesIO(shot), format="png")[..., :3]


def share_of(image, color, near=0.12):
    """Return the share of an image's pixels that have nearly a colour, such as "#0b6bcb"."""
    wanted = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return float((abs(image - wanted).max(axis=-1) < near).mean())
