"""Requests for a process that was forked, made by a helper of its own.

A data loader forks its workers, and obstore does not work in a fork of a process that has used it:
the threads that it runs on are not there. So a worker starts a small process that is no fork, which
makes the requests and hands back what they bring; it ends with the worker.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

from labelstore.errors import LabelStoreError, StoreError

__all__ = ["Helper"]


class Helper:
    """A process that makes requests at one URL."""

    def __init__(self, url: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [
                sys.executable,
                "-m",
                "labelstore.storage.parallel.fork_helper",
                str(theirs.fileno()),
                url,
            ]
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                # Ctrl-C is for the worker, with which the helper ends.
                start_new_session=True,
            )
        self.process_id = os.getpid()
        """Of the process that started it."""
        self._connection: Connection = Connection(ours.detach())
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Any]] = {}
        self._count = 0
        self._url = url
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, verb: str, *arguments: Any) -> Any:
        """What a method of ``labelstore.storage.remote.requests.Requests`` returns, or raises."""
        future: Future[Any] = Future()
        with self._lock:
            self._count += 1
            number = self._count
            self._waiting[number] = future
            try:
                self._connection.send((number, verb, arguments))
            except OSError as error:
                raise self._gone() from error
        return future.result()

    def _listen(self) -> None:
        while True:
            try:
                number, result, error = self._connection.recv()
            except (EOFError, OSError):
                break
            with self._lock:
                future = self._waiting.pop(number)
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        with self._lock:
            for future in self._waiting.values():
                future.set_exception(self._gone())
            self._waiting.clear()
            self._connection.close()

    def _gone(self) -> StoreError:
        return StoreError(
            f"{self._url}: the process that made requests for this one has ended: start it again."
        )


def serve(connection: Connection, url: str) -> None:
    """Answer requests until the other end closes."""
    from labelstore.storage.parallel.threads import THREADS, Threads
    from labelstore.storage.remote.requests import Requests

    requests, threads, lock = Requests(url), Threads(THREADS), threading.Lock()

    def answer(number: int, verb: str, arguments: tuple[Any, ...]) -> None:
        result, failure = None, None
        try:
            result = getattr(requests, verb)(*arguments)
        except (LabelStoreError, OSError) as error:
            failure = type(error)(str(error))
        with lock:
            connection.send((number, result, failure))

    while True:
        try:
            number, verb, arguments = connection.recv()
        except (EOFError, OSError):
            break
        threads.submit(functools.partial(answer, number, verb, arguments))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), sys.argv[2])
    os._exit(0)
