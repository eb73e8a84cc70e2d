"""What a command shows on a terminal of so many columns."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading

from tests.support import commands

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown(columns, *arguments, code=0):
    """Every line that labelstore printed on a terminal, results, notes and progress, in order."""
    text = CONTROL.sub("", written(columns, *arguments, code=code))
    return re.split(r"[\r\n]+", text)


def written(columns, *arguments, code=0):
    """The text that it wrote there, with its signs of control."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm"}
    # It would say another width than the terminal's.
    environment.pop("COLUMNS", None)
    data = bytearray()

    def read():
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                # Linux ends a terminal that nobody has open like this.
                return
            if not part:
                return
            data.extend(part)

    reader = threading.Thread(target=read)
    command = [sys.executable, "-m", "labelstore", *map(str, arguments)]
    process = commands.start(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    reader.start()
    done = process.wait(300)
    reader.join(10)
    os.close(ours)
    text = data.decode()
    assert done == code, text
    return text
