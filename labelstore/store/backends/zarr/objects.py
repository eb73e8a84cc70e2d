"""What a Zarr store lies in: objects by their names, and the errors that tell of damaged ones."""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from labelstore.errors import CorruptError, LabelStoreError, StoreError, one_line
from labelstore.format.arrays import UNITS
from labelstore.storage import local_files
from labelstore.storage.untrusted import opener_in, read_file, read_opened
from labelstore.store.backends.held_objects import HeldObjects
from labelstore.store.backends.zarr.arrays import COMMITS, KEYS, TARGETS
from labelstore.store.backends.zarr.unit_objects import unit_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from labelstore.store.backends.zarr.metadata import ArrayLayout
    from labelstore.store.backends.zarr.units import UnitReads

__all__ = ["ZarrObjects"]

T = TypeVar("T")


class ZarrObjects:
    """The objects of one store in a local folder."""

    def __init__(self, path: Path | str) -> None:
        self.path: Path | str = path
        self._layouts: dict[str, ArrayLayout] = {}
        self._held = HeldObjects[bytes]()
        self.units: UnitReads | None = None
        """Where labels lie in units."""

    def block_objects(self, block: int) -> list[str]:
        tables = {KEYS, TARGETS, COMMITS}
        names = [self._object_name(name, block) for name in self._layouts if name not in tables]
        return names if self.units is None else [*names, unit_object(block)]

    def bytes_by_part(self) -> dict[str, int]:
        parts: dict[str, int] = defaultdict(int)
        known = sorted((*self._layouts, UNITS), key=len, reverse=True)
        for name, size in self._sizes().items():
            part = next((array for array in known if name.startswith(f"{array}/")), "manifest")
            parts[part] += size
        return dict(parts)

    def _sizes(self) -> dict[str, int]:
        """Bytes of each of the store's objects."""
        return local_files.file_sizes(Path(self.path))

    def _object(self, name: str, block: int) -> Path:
        return Path(self.path, self._object_name(name, block))

    def _object_name(self, name: str, block: int) -> str:
        """What the object of a block is called in which an array lies."""
        if name == UNITS:
            return unit_object(block)
        axes = len(self._layouts[name].shape) - 1
        return "/".join((name, "c", str(block), *["0"] * axes))

    def _object_bytes(self, name: str, limit: int) -> bytes | None:
        """An object of at most ``limit`` bytes; None when it is not there."""
        data = self._held.get(name)
        if data is not None:
            return data
        try:
            return read_file(f"{self.path}/{name}", self.path, limit)
        except FileNotFoundError:
            return None

    def _files_of(self, folder: str) -> AbstractContextManager[Callable[[str], tuple[int, int]]]:
        """What opens files of a folder of the store by their names in it."""
        return opener_in(f"{self.path}/{folder}", str(self.path))

    def _bytes_in(
        self, opened: Callable[[str], tuple[int, int]], folder: str, name: str, limit: int
    ) -> bytes | None:
        """As ``_object_bytes``, of an object in a folder of which files are opened."""
        data = self._held.get(f"{folder}/{name}")
        if data is not None:
            return data
        try:
            opening = opened(name)
        except FileNotFoundError:
            return None
        return read_opened(*opening, f"{self.path}/{folder}/{name}", limit)

    def _together(self, calls: Iterable[Callable[[], T]]) -> Iterator[T]:
        """What calls return, in order."""
        return (call() for call in calls)

    @contextmanager
    def _guard(self, name: str, selection: Any) -> Iterator[None]:
        """Turn what decoding raises into the error of a damaged store."""
        try:
            yield
        except (LabelStoreError, ImportError):
            raise
        except Exception as error:
            raise self._damaged(name, selection, error) from error

    def _damaged(self, name: str, selection: Any, error: Exception) -> StoreError:
        return local_files.refusal(f"{self.path}/{name}", error) or CorruptError(
            f"{self.path}/{name} cannot be read at {_place(selection)} ({one_line(error)}): the "
            "store is damaged there; make these blocks again.",
            array=name,
        )


def _place(selection: Any) -> str:
    if selection is ...:
        return "its whole"
    parts = selection if isinstance(selection, tuple) else (selection,)
    names = ("images", "views")
    return ", ".join(
        f"{name} {part.start} to {part.stop - 1}" for name, part in zip(names, parts, strict=False)
    )
