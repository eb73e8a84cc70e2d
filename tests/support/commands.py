"""Commands of Python in real processes that start at once.

A new interpreter needs seconds of CPU for torch, timm and zarr, in every test that runs a command.
Here one process has imported them and this library and run nothing, and each command is forked from
it: a process of its own, with its own descriptors, environment and working folder, that can be
killed. It waits for its threads, runs what is registered for the end, and flushes, as interpreters
do, but leaves its memory to the system: to take down some hundred thousand objects whose pages are
shared costs more than most commands. What proves something of the start itself (imports, memory) or
of that last step takes ``subprocess``. A command whose environment says something that interpreters
and libraries read once, as they start (``READ_AT_START``), is given a new interpreter here, too.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path

__all__ = ["run", "share", "start"]

FORKS = sys.platform == "linux"
"""Elsewhere every command is a new interpreter."""

IMPORTED = (
    *("torch", "torchvision", "timm", "PIL.features", "PIL.JpegImagePlugin", "pillow_heif"),
    *("zarr", "pyarrow.parquet", "jsonschema", "rich.progress", "numpy.ma", "xxhash"),
    # pyarrow imports it where it is installed, for any table.
    *("pandas", "pyarrow.compute", "pyarrow.pandas_compat"),
)
"""What most commands import of others."""

NOT_OF_COMMANDS = ("labelstore.testing", "labelstore.torch", "labelstore.__main__")
"""Parts of this library that few commands import, with much of others; all the rest is imported."""

COLLAPSE, LARGE_PAGE = 25, 2**21
"""Linux's MADV_COLLAPSE, and the bytes of a large page."""

MESSAGE_BYTES = 2**17
"""A command's arguments and environment at most."""

READ_AT_START = (
    *("LD_", "PYTHON", "LANG", "LC_", "OMP_", "MKL_", "OPENBLAS_", "KMP_"),
    *("HF_", "TRITON_", "NUMBA_"),
)
"""How variables begin that count when an interpreter or a library starts, and not later."""

ENVIRONMENT = dict(os.environ)
"""That of the process that commands are forked from: this one's before any test changes it."""

SHARED = "TESTS_COMMANDS"
"""The variable that says where such a process listens that several processes of tests share."""

READ_LATER = ("PYTHONPATH", "PYTHONIOENCODING", "PYTHONBREAKPOINT")
"""Those of them that a forked command heeds. Ray sets the last for all that comes after it."""


class Command:
    """A command that runs, with what ``subprocess.Popen`` says of it.

    Args:
        arguments: ``sys.executable``, and ``-m MODULE``, ``-c CODE`` or FILE with what follows.
        stdin: a file or descriptor, or ``subprocess.PIPE`` for the attribute of this name.
        stdout: the same.
        stderr: the same.
        cwd: its working folder.
        env: all of its environment.
    """

    def __init__(self, arguments, *, stdin=subprocess.DEVNULL, stdout=1, stderr=2, cwd=None, env):
        self.args = [*map(str, arguments)][1:]
        request = {"arguments": self.args, "cwd": str(cwd or Path.cwd()), "env": env}
        self.stdin = self.stdout = self.stderr = None
        self.returncode = None
        reader, writer = os.pipe()
        self._told = os.fdopen(reader)
        with contextlib.ExitStack() as sent:
            sent.callback(os.close, writer)
            if stdin == subprocess.DEVNULL:
                stdin = os.open(os.devnull, os.O_RDONLY)
                sent.callback(os.close, stdin)
            elif stdin == subprocess.PIPE:
                stdin, asked = os.pipe()
                sent.callback(os.close, stdin)
                self.stdin = os.fdopen(asked, "w", 1)
            outputs = {"stdout": stdout, "stderr": stderr}
            for name, place in outputs.items():
                if place == subprocess.PIPE:
                    printed, outputs[name] = os.pipe()
                    sent.callback(os.close, outputs[name])
                    setattr(self, name, os.fdopen(printed))
            streams = [stdin, *outputs.values()]
            descriptors = [s if isinstance(s, int) else s.fileno() for s in streams] + [writer]
            socket.send_fds(_server(), [json.dumps(request).encode()], descriptors)
        self.pid = int(self._told.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Close its streams, and wait for its end."""
        for stream in filter(None, (self.stdin, self.stdout, self.stderr)):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self.wait()

    def poll(self):
        """Its exit code, negative where a signal ended it; None while it runs."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout=None):
        """Wait for its end, and give its exit code."""
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            with self._told:
                self.returncode = int(self._told.readline())
        return self.returncode

    def communicate(self, text=None, timeout=None):
        """Give it a text, wait for its end, and give what it printed since on its two streams."""
        if self.stdin:
            with contextlib.suppress(BrokenPipeError), self.stdin:
                self.stdin.write(text or "")
        printed = {}

        def read(name, stream):
            with stream:
                printed[name] = stream.read()

        streams = {name: getattr(self, name) for name in ("stdout", "stderr")}
        readers = [
            threading.Thread(target=read, args=(name, stream))
            for name, stream in streams.items()
            if stream
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return printed.get("stdout"), printed.get("stderr")

    def send_signal(self, number):
        """Send a signal, where it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(arguments, *, env=None, **options):
    """A command that runs; see ``Command`` for the options."""
    assert arguments[0] == sys.executable
    env = dict(os.environ if env is None else env)
    if FORKS and not reads_at_start(env):
        return Command(arguments, env=env, **options)
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen([*map(str, arguments)], text=True, env=env, **options)


def reads_at_start(env):
    """Whether an environment says what a process reads as it starts, and other than ours."""
    return any(
        env.get(name) != ENVIRONMENT.get(name)
        for name in env.keys() | ENVIRONMENT.keys()
        if name.startswith(READ_AT_START) and name not in READ_LATER
    )


def run(arguments, *, check=False, timeout=300, **options):
    """What ``subprocess.run`` gives with ``capture_output=True, text=True``; see ``Command``."""
    with contextlib.ExitStack() as files:
        stdout, stderr = (files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2))
        options |= {"stdout": stdout.fileno(), "stderr": stderr.fileno()}
        command = start(arguments, **options)
        try:
            code = command.wait(timeout)
        except subprocess.TimeoutExpired:
            command.kill()
            raise
        stdout.seek(0)
        stderr.seek(0)
        done = subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())
    if check:
        assert code == 0, done.stderr
    return done


def share():
    """Let the processes that this one starts, for ``pytest -n``, have their commands of one server.

    Its imports take as long as hundreds of commands. It makes them when a command is first asked
    for.
    """
    if FORKS:
        os.environ[SHARED] = ENVIRONMENT[SHARED] = _started()


@functools.cache
def _server():
    """The socket of the process that commands are forked from."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.connect(ENVIRONMENT.get(SHARED) or _started())
    atexit.register(control.close)
    return control


def _started():
    """Where a new such process listens; it ends with this one."""
    # In a folder that is this user's alone, as what listens there runs whatever it is sent.
    folder = tempfile.mkdtemp()
    address = f"{folder}/commands"
    life = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        # The first that it accepts.
        life.connect(address)
        process = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for the tests.
            start_new_session=True,
        )

    def end():
        life.close()
        process.wait()
        shutil.rmtree(folder)

    atexit.register(end)
    return address


def serve(listener):
    """Fork a command for each request, and tell how it ended; returns in the command's process.

    Args:
        listener: who connects may send requests; when the first that did is gone, this ends.
    """
    life, _ = listener.accept()
    if life in select.select([listener, life], [], [])[0]:
        return None
    # Nothing that imports make is garbage.
    gc.disable()
    for module in (*IMPORTED, *_own_modules()):
        importlib.import_module(module)
    threads = {file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")}
    threads -= {Path("/proc/self/comm").read_text().strip(), "jemalloc_bg_thd"}
    if threads:
        # jemalloc starts its own again after a fork.
        raise RuntimeError(f"an import started threads, which commands would lack: {threads}")
    # What imports registered for the end of an interpreter undoes parts of its memory.
    for finalizer in list(weakref.finalize._registry):
        finalizer.atexit = False
    # A command's own collections leave these objects, and so their pages, alone.
    gc.collect()
    gc.freeze()
    gc.enable()
    _take_large_pages()
    controls, running = {life, listener}, {}
    while True:
        ready, _, _ = select.select([*controls, *running], [], [])
        for ended in set(ready) & set(running):
            command, told = running.pop(ended)
            _, status = os.waitpid(command, 0)
            with contextlib.suppress(BrokenPipeError):
                os.write(told, f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os.close(told)
            os.close(ended)
        control = next((one for one in ready if one in controls), None)
        if control is listener:
            controls.add(listener.accept()[0])
        if control in (None, listener):
            continue
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 4)
        if not message:
            if control is life:
                return None
            controls.remove(control)
            control.close()
            continue
        *streams, told = descriptors
        command = os.fork()
        if not command:
            break
        os.write(told, f"{command}\n".encode())
        running[os.pidfd_open(command)] = command, told
        for descriptor in streams:
            os.close(descriptor)
    for control in controls:
        control.close()
    for other, (_, its) in running.items():
        os.close(other)
        os.close(its)
    os.close(told)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # Tests that run in the background of a shell are deaf to it, and so is what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return json.loads(message)


def _own_modules():
    """The names of this library's modules but for those of ``NOT_OF_COMMANDS``."""
    # The latter has a folder of its own.
    for package in ("labelstore", "labelstore.cli"):
        folders = importlib.import_module(package).__path__
        for module in pkgutil.walk_packages(folders, f"{package}."):
            if not module.name.startswith(NOT_OF_COMMANDS):
                yield module.name


def _take_large_pages():
    """Let this process's memory be of large pages where it can: a fork copies the table of all.

    That of small ones takes as long as a short command. Where the system refuses, nothing changes.
    """
    advise = ctypes.CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, access, *_, inode = (place := line.split())[:5]
        if access != "rw-p" or inode != "0" or place[5:] == ["[stack]"]:
            continue
        first, end = (int(address, 16) for address in addresses.split("-"))
        first, end = -(-first // LARGE_PAGE) * LARGE_PAGE, end // LARGE_PAGE * LARGE_PAGE
        if first < end:
            advise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), COLLAPSE)


def be(arguments, cwd, env):
    """What ``python`` does with its arguments."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    encoding, _, errors = env.get("PYTHONIOENCODING", "").partition(":")
    for number, name in ((1, "stdout"), (2, "stderr")):
        if os.isatty(number):
            # Theirs were opened for a file, and a terminal cannot seek.
            file = os.fdopen(number, "w", 1, encoding="utf-8", closefd=False)
            setattr(sys, name, file)
        if encoding:
            errors = errors or ("backslashreplace" if number == 2 else "strict")
            getattr(sys, name).reconfigure(encoding=encoding, errors=errors)
    kind, *rest = arguments
    # In place of this file's folder.
    sys.path[:1] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = type(sys)("__main__")
    if kind == "-c":
        sys.argv, code = [kind, *rest[1:]], compile(rest[0], "<string>", "exec")
    else:
        sys.argv, main.__file__ = arguments, kind
        sys.path[0] = str(Path(kind).parent)
        code = compile(Path(kind).read_bytes(), kind, "exec")
    exec(code, vars(main))


def end_after(command):
    """End this process as an interpreter ends after a command, but for its memory.

    What no command does on purpose (Ctrl-C that nobody took) is the interpreter's.
    """
    code = 0
    try:
        command()
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
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
