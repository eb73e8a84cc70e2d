"""Debian's packages as sources of data: fetched with apt and unpacked, not installed."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["unpacked"]

_SECONDS = 600
"""How long a download may take."""


def unpacked(package: str, folder: Path) -> Path:
    """A folder with a package's files below it, fetched on the first call; needs no root.

    Args:
        package: its name in the distribution of this machine.
        folder: where the files go; what is there already is used. The download lies beside it until
            it is unpacked.

    Raises:
        OSError: there is no apt-get here, or the download brought no package. SubprocessError:
        apt-get or dpkg-deb failed.
    """
    if folder.is_dir():
        return folder
    download = folder.with_name(f"{folder.name}.download")
    partial = folder.with_name(f"{folder.name}.partial")
    for leftover in (download, partial):
        shutil.rmtree(leftover, ignore_errors=True)
        leftover.mkdir(parents=True)
    _call(["apt-get", "download", package], download)
    archives = sorted(download.glob(f"{package}_*.deb"))
    if not archives:
        raise FileNotFoundError(f"apt-get brought no package {package}")
    _call(["dpkg-deb", "-x", str(archives[-1]), str(partial)], download)
    partial.rename(folder)
    shutil.rmtree(download)
    return folder


def _call(command: list[str], folder: Path) -> None:
    subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, timeout=_SECONDS
    )
