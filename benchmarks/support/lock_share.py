"""How much processor time threads spend under the interpreter's lock: by a sampler in C.

Python cannot tell: what asks for the lock waits for it. So a signal at each step of the kernel's
profiling timer looks whether the thread that it meets holds the lock. Seconds of the processor are
counted, not of the clock, so that a busy machine changes little. It needs a C compiler and Linux.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LockSampler"]

STEP_US = 1000
"""Between looks, where the kernel's timer is as fine; it is 4,000 on many."""


class LockSampler:
    """Runs functions and tells of their threads' time.

    Args:
        folder: an empty one, to compile in.

    Raises:
        RuntimeError: there is no C compiler.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise RuntimeError("no C compiler (cc)")
        library = folder / "lock_sampler.so"
        source = Path(__file__).with_name("lock_sampler.c")
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        self._sampler = ctypes.CDLL(str(library))

    def shares(self, work: Callable[[], object]) -> dict[str, tuple[float, float]]:
        """Of each kind of threads, shares of the process's processor time: under the lock, and not.

        Threads of one pool are one kind, called by its name; "MainThread" is the caller's.
        """
        names = {threading.get_native_id(): threading.current_thread().name}
        run = threading.Thread.run

        def named(thread: threading.Thread) -> None:
            names[threading.get_native_id()] = thread.name.rpartition("_")[0] or thread.name
            run(thread)

        whom, how = ctypes.POINTER(ctypes.c_long)(), ctypes.POINTER(ctypes.c_ubyte)()
        with mock.patch.object(threading.Thread, "run", named):
            self._sampler.begin(ctypes.pythonapi.PyGILState_Check, ctypes.c_long(STEP_US))
            try:
                work()
            finally:
                count = self._sampler.end(ctypes.byref(whom), ctypes.byref(how))
        looks = Counter((names.get(whom[at], "other"), bool(how[at])) for at in range(count))
        return {
            name: (looks[name, True] / max(count, 1), looks[name, False] / max(count, 1))
            for name in sorted({name for name, _ in looks})
        }
