import contextlib
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class _Handler(BaseHTTPRequestHandler):
    """Serves `server.files` in the way that `server.manner` says, and notes what was asked for."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        manner, asked = self.server.manner, self.headers.get("Range")
        path = self.path.partition("?")[0]
        self.server.asked.append((path, asked))
        if manner == "silent":
            self.server.quiet.wait(10)
            return
        if path in self.server.redirects:
            if not self.server.redirects[path]:  # as the hub refuses to send what is gated
                self.send_response(401)
                self.send_header("X-Error-Code", "GatedRepo")
            else:
                self.send_response(302)
            self.send_header("Location", self.server.redirects[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = self.server.files.get(path)
        if body is None:
            self.send_error(404)
            return
        etag, condition, start = f'"{hashlib.sha256(body).hexdigest()}"', self.headers.get("If-Range"), 0
        if asked and manner != "no range" and condition in (None, etag):
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[start:]
        if manner != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", etag)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(ConnectionError):  # whoever has read enough hangs up
            if manner == "slow":
                for i in range(10):
                    self.wfile.write(body[i * len(body) // 10 : (i + 1) * len(body) // 10])
                    time.sleep(0.02)
            else:
                self.wfile.write(body[: len(body) // 2] if manner == "cut" else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server on 127.0.0.1: `files` and `redirects` by path, `manner`, `headers`, and what was `asked`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.files, server.redirects, server.headers, server.manner, server.asked = {}, {}, {}, "", []
        server.quiet = threading.Event()
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.quiet.set()
        server.shutdown()
        thread.join()
