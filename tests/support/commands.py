"""Commands of Python in real processes that start at once.

A new interpreter needs seconds of CPU for torch, timm and zarr, in every test that runs a command.
Here one process has imported them and run nothing, and each command is forked from it: a process
of its own, with its own descriptors, environment and working folder, that can be killed. It waits
for its threads, runs what is registered for the end, and flushes, as interpreters do, but leaves
its memory to the system: to take down some hundred thousand objects whose pages are shared costs
more than most commands. What proves something of the start itself (imports, memory, what libraries
read of their environment when they are imported) or of that last step takes ``subprocess``.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path

__all__ = ["run", "start"]

FORKS = sys.platform == "linux"
"""Elsewhere every command is a new interpreter."""

IMPORTED = (
    *("torch", "torchvision", "timm", "PIL.features", "PIL.JpegImagePlugin", "pillow_heif"),
    *("zarr", "pyarrow.parquet", "jsonschema", "rich.progress", "numpy.ma", "xxhash"),
    *(
        "labelstore.cli.main",
        "labelstore.cli.commands.generate",
        "labelstore.producer.generation",
        "labelstore.store",
    ),
    *(
        "labelstore.teachers",
        "labelstore.launch",
        "labelstore.images.sources.choose",
        "labelstore.operations.repair",
    ),
)
"""What most commands import."""

MESSAGE_BYTES = 2**17
"""A command's arguments and environment at most."""


class Command:
    """A command that runs, with what ``subprocess.Popen`` says of it.

    Args:
        arguments: ``sys.executable``, and ``-m MODULE`` or ``-c CODE`` with what follows.
        stdout: a descriptor, or ``subprocess.PIPE`` for the attribute of this name.
        stderr: a descriptor.
        cwd: its working folder.
        env: all of its environment.
    """

    def __init__(self, arguments, *, stdout=1, stderr=2, cwd=None, env=None):
        python, *self.args = map(str, arguments)
        assert python == sys.executable
        request = {
            "arguments": self.args,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
        }
        self.stdout = None
        self.returncode = None
        reader, writer = os.pipe()
        self._told = os.fdopen(reader)
        with contextlib.ExitStack() as sent:
            sent.callback(os.close, writer)
            if stdout == subprocess.PIPE:
                printed, stdout = os.pipe()
                sent.callback(os.close, stdout)
                self.stdout = os.fdopen(printed)
            socket.send_fds(_server(), [json.dumps(request).encode()], [stdout, stderr, writer])
        self.pid = int(self._told.readline())

    def poll(self):
        """Its exit code, negative where a signal ended it; None while it runs."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout=None):
        """Wait for its end, and give its exit code."""
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                self.kill()
                raise subprocess.TimeoutExpired(self.args, timeout)
            with self._told:
                self.returncode = int(self._told.readline())
        return self.returncode

    def communicate(self, timeout=None):
        """Wait for its end, and give what it printed since, and None."""
        with self.stdout:
            printed = self.stdout.read()
        self.wait(timeout)
        return printed, None

    def send_signal(self, number):
        """Send a signal, where it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(arguments, **options):
    """A command that runs; see ``Command`` for the options."""
    return (
        Command(arguments, **options)
        if FORKS
        else subprocess.Popen(arguments, text=True, **options)
    )


def run(arguments, *, check=False, cwd=None, env=None, timeout=300):
    """What ``subprocess.run`` gives with ``capture_output=True, text=True``."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        files = {"stdout": stdout.fileno(), "stderr": stderr.fileno()}
        code = start(arguments, cwd=cwd, env=env, **files).wait(timeout)
        stdout.seek(0)
        stderr.seek(0)
        done = subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())
    if check:
        assert code == 0, done.stderr
    return done


@functools.cache
def _server():
    """The socket of the process that commands are forked from; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for the tests.
            start_new_session=True,
        )

    def end():
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def serve(control):
    """Fork a command for each request, and tell how it ended; returns in the command's process."""
    for module in IMPORTED:
        importlib.import_module(module)
    # What imports registered for the end of an interpreter undoes parts of its memory.
    for finalizer in list(weakref.finalize._registry):
        finalizer.atexit = False
    # A command's own collections leave these objects, and so their pages, alone.
    gc.collect()
    gc.freeze()
    running = {}
    while True:
        ready, _, _ = select.select([control, *running], [], [])
        for ended in set(ready) & set(running):
            command, told = running.pop(ended)
            _, status = os.waitpid(command, 0)
            with contextlib.suppress(BrokenPipeError):
                os.write(told, f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os.close(told)
            os.close(ended)
        if control not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 3)
        if not message:
            return None
        *outputs, told = descriptors
        command = os.fork()
        if not command:
            break
        os.write(told, f"{command}\n".encode())
        running[os.pidfd_open(command)] = command, told
        for descriptor in outputs:
            os.close(descriptor)
    control.close()
    for other, (_, its) in running.items():
        os.close(other)
        os.close(its)
    os.close(told)
    for number, descriptor in enumerate(outputs, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return json.loads(message)


def be(arguments, cwd, env):
    """What ``python`` does with its arguments."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if os.isatty(number):
            # Theirs were opened for a file, and a terminal cannot seek.
            file = os.fdopen(number, "w", 1, encoding="utf-8", closefd=False)
            setattr(sys, name, file)
    kind, what, *rest = arguments
    # In place of this file's folder.
    sys.path[:1] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    if kind == "-m":
        sys.argv = [what, *rest]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *rest]
        main = sys.modules["__main__"] = type(sys)("__main__")
        exec(compile(what, "<string>", "exec"), vars(main))


def end_after(command):
    """End this process as an interpreter ends after a command, but for its memory.

    What no command does on purpose (an exception, Ctrl-C that nobody took) is the interpreter's.
    """
    code = 0
    try:
        command()
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        code = end.code or 0
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        # The interpreter tells of it, and has its own exit code.
        sys.exit(code)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    if (request := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        end_after(lambda: be(**request))
