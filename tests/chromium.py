"""A headless Chromium, spoken to through chromedriver's W3C protocol: what the tests of the page need of selenium."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-default-apps"),
    *("--use-fake-device-for-media-stream", "--disable-dev-shm-usage", "--force-prefers-reduced-motion"),
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element, by the protocol
TAB, ENTER, SPACE, LEFT = "\ue004", "\ue007", "\ue00d", "\ue012"


class Browser:
    """One window. `script` is the body of a function in the page; where it gives a promise, its value is waited for."""

    def __init__(self, url):
        self.url = url

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def reload(self):
        self.call("POST", "/refresh", {})

    def script(self, text, *args):
        return self.call("POST", "/execute/sync", {"script": text, "args": args})

    def cdp(self, command, **params):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def find(self, selector):
        return self.call("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT]

    def text(self, selector):
        return self.script("return document.querySelector(arguments[0]).innerText", selector)

    def press(self, *keys):
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def focused(self):
        return self.script("return document.activeElement.id || document.activeElement.tagName")

    def until(self, text, *args, seconds=60):
        """Wait until a script's value is true, and return it."""
        end = time.monotonic() + seconds
        while not (value := self.script(text, *args)):
            if time.monotonic() > end:
                shown = self.script("return document.body.innerText")
                raise AssertionError(f"not within {seconds} s: {text}; the page says: {shown}; log: {self.log()}")
            time.sleep(0.02)
        return value

    def log(self):
        """What the page has written to its console."""
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def give(self, selector, *files):
        """Choose files in an <input type=file>."""
        self.call("POST", f"/element/{self.find(selector)}/value", {"text": "\n".join(map(str, files))})

    def drop(self, *files, one_by_one=False, paste=False):
        """Drop files on the page, as from a desktop, or paste them; `one_by_one` without waiting for it in between."""
        self.script(
            "const input = document.createElement('input'); input.id = 'dropped'; input.type = 'file';"
            "input.multiple = true; document.body.append(input)"
        )
        self.give("#dropped", *files)
        self.script(
            "const input = document.querySelector('#dropped'), files = [...input.files]; input.remove();"
            "for (const some of arguments[0] ? files.map((file) => [file]) : [files]) {"
            "  const dataTransfer = new DataTransfer(); for (const file of some) dataTransfer.items.add(file);"
            "  document.body.dispatchEvent(arguments[1]"
            "    ? new ClipboardEvent('paste', {clipboardData: dataTransfer, bubbles: true})"
            "    : new DragEvent('drop', {dataTransfer, bubbles: true, cancelable: true})) }",
            one_by_one,
            paste,
        )

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))


@contextlib.contextmanager
def driver():
    """A chromedriver of our own on a free port; its address."""
    process = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        for line in process.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                yield f"http://127.0.0.1:{found[1]}"
                return
        raise RuntimeError("chromedriver does not start")
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def browser(driver, *flags, size=(1280, 900)):
    """A new window of a new user."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        args = [*_FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", *flags]
        wanted = {
            "goog:chromeOptions": {"args": args, "binary": CHROMIUM},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = Browser(f"{driver}/session").call("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        window = Browser(f"{driver}/session/{session['sessionId']}")
        try:
            yield window
        finally:
            window.call("DELETE", "")
