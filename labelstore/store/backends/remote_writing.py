"""What writing to an object store takes, whatever the objects hold."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from labelstore.storage.remote.leases import Lease, dead_leases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from labelstore.storage.remote.objects import RemoteObjects

__all__ = ["RemoteWriting"]


class RemoteWriting:
    """The part of a remote backend that its two formats have in common."""

    _objects: RemoteObjects

    if TYPE_CHECKING:  # of the format beside which this stands

        def read_commit(self, block: int) -> npt.NDArray[np.uint64]: ...

    def is_empty(self) -> bool:
        """Whether nothing is there."""
        return not self._objects.sizes([])

    def check_writable(self) -> None:
        """UsageError for a URL that can only be read."""
        self._objects.check_writable()

    def dead_writers(self) -> dict[str, int]:
        """Names and bytes of the leases that dead writers have left; BusyError where one lives."""
        return self._objects.sizes_of(dead_leases(self._objects))

    def object_sizes(self) -> dict[str, int]:
        """Bytes of each object that is there, leases apart."""
        return self._objects.sizes([])

    def delete_objects(self, names: Iterable[str]) -> None:
        """Delete objects, several at once."""
        for _ in self._objects.together(
            functools.partial(self._objects.delete, name) for name in names
        ):
            pass

    def lease(self, rank: int, world: int) -> Lease:
        """The right to write here, for one of several processes; not taken yet."""
        return Lease(self._objects, rank, world)

    def committed(self, blocks: Sequence[int]) -> list[int]:
        """Those of some blocks that are committed, asked for together."""
        rows = self._objects.together(functools.partial(self.read_commit, one) for one in blocks)
        return [block for block, row in zip(blocks, rows, strict=True) if row[0]]

    def write_objects(
        self, objects: Mapping[str, bytes | None], ready: Callable[[], None] = lambda: None
    ) -> None:
        """Write the objects of a block, several at once."""
        calls = (
            functools.partial(self._attempt, name, data, ready) for name, data in objects.items()
        )
        # All have ended before an error is told: none is written after that.
        errors = [error for error in self._objects.together(calls) if error is not None]
        if errors:
            raise errors[0]

    def _attempt(
        self, name: str, data: bytes | None, ready: Callable[[], None]
    ) -> Exception | None:
        """Write one object; what went wrong."""
        try:
            self._objects.put_part(name, data, ready)
        except Exception as error:
            return error
        return None

    def _write_new(self, name: str, data: bytes) -> bool:
        return self._objects.put_new(name, data)
