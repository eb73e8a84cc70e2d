"""Servers on this machine to test remote stores with: S3, plain HTTP, and a network that fails.

``S3Server`` runs moto's server, a stand-in for S3, in a process of its own. ``Proxy`` stands before
any server: it adds time to each request, counts what goes through, and breaks connections.
"""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from labelstore.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path
    from types import TracebackType

__all__ = ["FileServer", "Proxy", "Request", "S3Server"]

_START_SECONDS = 60

_QUIET_MOTO = """
import logging
logging.getLogger("werkzeug").setLevel(logging.ERROR)
from moto.server import main
main()
"""
"""moto's server without a line for each request, which takes it longer than many an answer."""


class S3Server:
    """An S3-compatible server on the loopback interface; a context manager.

    Its objects are in its memory. ``environment`` is what a client needs.
    """

    def __init__(self) -> None:
        self.port = _free_port()
        self.address = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> S3Server:
        command = [sys.executable, "-c", _QUIET_MOTO, "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    self._process.kill()
                    raise StoreError(
                        "moto's server does not start: pip install 'moto[server]'."
                    ) from None
                time.sleep(0.05)
            else:
                return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(10)

    def make_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        request = urllib.request.Request(f"{self.address}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=_START_SECONDS).close()

    def environment(self, address: str | None = None) -> dict[str, str]:
        """The variables with which a client finds it, at another address where a proxy stands."""
        return {
            "AWS_ENDPOINT_URL": address or self.address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }


class _Server:
    """A server in a thread; a context manager."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Any:
        # Its end is looked for as often: an end is waited for in every test.
        often = {"poll_interval": 0.02}
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs=often, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)


class FileServer(_Server):
    """Serves a folder's files over HTTP, ranges included, as static hosts do; no listing.

    Attributes:
        seconds: what it lets pass before each answer.
        pace: bytes of a piece of an answer, and the seconds after each; None for all at once.
    """

    def __init__(self, root: Path, *, ranges: bool = True) -> None:
        """``ranges``: whether a range that is asked for is all that is sent."""
        self.seconds = 0.0
        self.pace: tuple[int, float] | None = None
        server = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                self._send(body=True)

            def do_HEAD(self) -> None:
                self._send(body=False)

            def _send(self, body: bool) -> None:
                time.sleep(server.seconds)
                file = root / unquote(urlsplit(self.path).path).lstrip("/")
                if not file.is_file():
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                data = file.read_bytes()
                asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
                part = _range(asked[1], asked[2], len(data)) if asked and ranges else (0, len(data))
                self.send_response(206 if asked and ranges else 200)
                if asked and ranges:
                    shown = f"bytes {part[0]}-{part[1] - 1}/{len(data)}"
                    self.send_header("Content-Range", shown)
                self.send_header("Content-Length", str(part[1] - part[0]))
                self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
                self.end_headers()
                if body:
                    self._write(data[part[0] : part[1]])

            def _write(self, data: bytes) -> None:
                size, seconds = server.pace or (len(data), 0.0)
                try:
                    for start in range(0, len(data), max(size, 1)):
                        self.wfile.write(data[start : start + size])
                        time.sleep(seconds)
                except ConnectionError:
                    # Who asked does not wait any longer.
                    self.close_connection = True

        super().__init__(Handler)


class Request:
    """One request that went through a proxy."""

    def __init__(self, number: int, method: str, path: str, headers: Any) -> None:
        self.number = number
        """From 0."""
        self.method = method
        self.path = path
        self.headers = headers
        self.body_bytes = 0
        """Bytes of the answer."""


class Proxy(_Server):
    """A network between a client and a server.

    Args:
        target: the server's address, ``http://HOST:PORT``.
        seconds: what is added to each request.
        cut: told of a request; the number of bytes of the answer's body after which the connection
            breaks, or None for a whole answer.
        without: headers of requests that the server does not see.
    """

    def __init__(
        self,
        target: str,
        *,
        seconds: float = 0.0,
        cut: Callable[[Request], int | None] = lambda request: None,
        without: Collection[str] = (),
    ) -> None:
        self.requests: list[Request] = []
        """All that came, in order."""
        self.seconds = seconds
        self.cut = cut
        self.status: int | None = None
        """An error that all requests are answered with."""
        self.together = self.most_together = 0
        """Requests that are under way, and the most that ever were."""
        lock, place = threading.Lock(), urlsplit(target)
        proxy = self

        class Handler(_Handler):
            def _handle(self) -> None:
                with lock:
                    request = Request(len(proxy.requests), self.command, self.path, self.headers)
                    proxy.requests.append(request)
                    proxy.together += 1
                    proxy.most_together = max(proxy.together, proxy.most_together)
                try:
                    self._answer(request)
                finally:
                    with lock:
                        proxy.together -= 1

            def _answer(self, request: Request) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                time.sleep(proxy.seconds)
                if proxy.status is not None:
                    self.send_response(proxy.status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                onward = self._onward()
                hidden = {name.lower() for name in without}
                headers = {n: v for n, v in self.headers.items() if n.lower() not in hidden}
                onward.request(self.command, self.path, body, headers)
                answer = onward.getresponse()
                data = answer.read()
                request.body_bytes = len(data)
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(data)))
                self.end_headers()
                kept = proxy.cut(request)
                if kept is None:
                    self.wfile.write(data)
                    return
                self.wfile.write(data[:kept])
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def do_GET(self) -> None:
                self._handle()

            def do_PUT(self) -> None:
                self._handle()

            def do_HEAD(self) -> None:
                self._handle()

            def do_DELETE(self) -> None:
                self._handle()

            def do_POST(self) -> None:
                self._handle()

            def finish(self) -> None:
                super().finish()
                if hasattr(self, "_connection"):
                    self._connection.close()

            def _onward(self) -> http.client.HTTPConnection:
                connection: http.client.HTTPConnection | None = getattr(self, "_connection", None)
                if connection is None:
                    connection = http.client.HTTPConnection(place.hostname or "", place.port)
                    self._connection = connection
                return connection

        super().__init__(Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are written apart, and must not wait for each other.
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


def _range(first: str, last: str, size: int) -> tuple[int, int]:
    """Start and stop of a range as HTTP writes it: ``first-last``, ``first-`` or ``-length``."""
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1 if last else size, size)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
