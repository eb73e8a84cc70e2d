"""Which files a path, a pattern or a URL names."""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from labelstore.errors import NotFoundError, SourceError
from labelstore.images.sources.patterns import expand_braces, is_pattern
from labelstore.images.sources.source_files import LocalFiles, RemoteFiles
from labelstore.storage.location import place_of
from labelstore.storage.remote.objects import RemoteObjects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from labelstore.images.sources.source_files import SourceFiles

__all__ = ["files_at", "is_folder", "remote_sizes", "walk"]


def files_at(path: str | os.PathLike[str], suffix: str) -> SourceFiles:
    """The files of one suffix at a path or URL, sorted by name.

    Args:
        path: a file; a folder, whose own files are meant, or if it has none those of its
            subfolders (a snapshot of a hub); or a pattern of files (``is_pattern``).
        suffix: such as ``".tar"``.

    Raises:
        NotFoundError: nothing is there, or a file of a brace list is missing. UsageError: the URL
            is of a kind that is not read. SourceError: it is a folder of a server that does not
            list its files.
    """
    place = place_of(path)
    if isinstance(place, str):
        return _remote(place, suffix)
    if os.path.lexists(place) and not place.is_dir():
        # Of what is no file, reading tells.
        return LocalFiles([place])
    if is_pattern(place):
        return LocalFiles(_matching(place))
    if not place.exists():
        raise NotFoundError(f"there is nothing at {place}: give a file or a folder of files.")
    entries = {entry.name: entry for entry in place.iterdir()}
    names = sorted(name for name, entry in entries.items() if not entry.is_dir())
    if any(name.endswith(suffix) for name in names):
        # A folder of a shard's name beside shards is a shard that was exchanged: reading tells.
        names = sorted({*names, *(name for name in entries if name.endswith(suffix))})
    else:
        names = sorted(walk(place))
    names = [name for name in names if not name.startswith(".")]
    return LocalFiles(
        [place / name for name in names if name.endswith(suffix)],
        [name for name in names if not name.endswith(suffix)],
    )


def walk(
    folder: Path,
    prefix: str = "",
    above: frozenset[tuple[int, int]] = frozenset(),
    folders: list[str] | None = None,
) -> Iterator[str]:
    """Relative POSIX paths of all files below a folder that are not hidden, in no order.

    Links to folders are followed, loops are cut. Pipes, devices and links to nothing are named,
    too.

    Args:
        folder: where to look.
        prefix: what the paths begin with.
        above: device and inode of the folders that are being walked.
        folders: takes the paths of the folders that were walked.

    Raises:
        SourceError: a folder cannot be listed.
    """
    try:
        status = folder.stat()
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError as error:
        raise SourceError(
            f"cannot list the folder {folder} ({error.strerror or error}): make it readable or "
            "move it away."
        ) from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if is_folder(entry):
            if folders is not None:
                folders.append(prefix + entry.name)
            within = f"{prefix}{entry.name}/"
            yield from walk(Path(entry.path), within, above | {identity}, folders)
        # What is no file, or a link to nothing, is kept, to fail by name when it is read.
        else:
            yield prefix + entry.name


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; without a call of the system for most."""
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself.
        return False


def remote_sizes(url: str) -> dict[str, int]:
    """Bytes of all objects below a URL, by name.

    Raises:
        SourceError: the server does not list its files. NotFoundError: there are none.
    """
    if not url.startswith(("s3://", "gs://")):
        raise SourceError(
            f"{url} cannot be listed over HTTP: give the URL of one .tar or .parquet file, a brace "
            "list of them, a folder of s3:// or gs://, or a copy here."
        )
    sizes = RemoteObjects(url).sizes_of_many()
    if not sizes:
        raise NotFoundError(f"there is nothing at {url}: check the bucket and the prefix.")
    return sizes


def _matching(pattern: Path) -> list[Path]:
    """The files of a glob or a brace list here, each once, sorted by name within each brace."""
    files: dict[Path, None] = {}
    for name in expand_braces(str(pattern)):
        path = Path(name)
        if re.search(r"[*?[]", name) is None or path.exists():
            paths = [path] if os.path.lexists(path) else []
        else:
            paths = sorted(_glob(path))
        if not paths:
            raise NotFoundError(
                f"there is no file {name} (of {pattern}): correct the pattern, or restore the file."
            )
        files |= dict.fromkeys(paths)
    return list(files)


def _glob(pattern: Path) -> Iterator[Path]:
    anchor = Path(pattern.anchor) if pattern.is_absolute() else Path()
    return anchor.glob(str(pattern.relative_to(anchor) if pattern.is_absolute() else pattern))


def _remote(url: str, suffix: str) -> RemoteFiles:
    if is_pattern(url):
        return _remote_matching(url)
    if url.endswith(suffix):
        folder, _, name = url.rpartition("/")
        sizes = RemoteObjects(folder).sizes_of([name])
        if not sizes:
            raise NotFoundError(f"there is nothing at {url}: check the URL.")
        return RemoteFiles(folder, sizes)
    sizes = remote_sizes(url)
    own = {name: size for name, size in sizes.items() if "/" not in name}
    if any(name.endswith(suffix) for name in own):
        sizes = own
    return RemoteFiles(
        url,
        {name: size for name, size in sizes.items() if name.endswith(suffix)},
        [name for name in sizes if not name.endswith(suffix)],
    )


def _remote_matching(url: str) -> RemoteFiles:
    """The objects of a glob or a brace list; the folder before the first sign is looked into."""
    start = re.search(r"[*?[{]", url)
    folder = url[: start.start() if start else len(url)].rpartition("/")[0]
    patterns = [name[len(folder) + 1 :] for name in expand_braces(url)]
    if any(re.search(r"[*?[]", name) for name in patterns):
        sizes = remote_sizes(folder)
    else:
        sizes = RemoteObjects(folder).sizes_of(patterns)
    chosen: dict[str, int] = {}
    for pattern in patterns:
        names = [pattern] if pattern in sizes else fnmatch.filter(sizes, pattern)
        # As in a folder, a star does not cross a slash.
        names = [name for name in names if name.count("/") == pattern.count("/")]
        if not names:
            raise NotFoundError(
                f"there is nothing at {folder}/{pattern} (of {url}): correct the pattern, or "
                "restore the object."
            )
        chosen |= {name: sizes[name] for name in names}
    return RemoteFiles(folder, chosen)
