"""What writing to an object store takes, whatever the objects hold."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from labelstore.storage.leases import Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from labelstore.storage.objects import RemoteObjects

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

    def lease(self, rank: int, world: int) -> Lease:
        """The right to write here, for one of several processes; not taken yet."""
        return Lease(self._objects, rank, world)

    def committed(self, blocks: Sequence[int]) -> list[int]:
        """Those of some blocks that are committed, asked for together."""
        rows = self._objects.together(functools.partial(self.read_commit, one) for one in blocks)
        return [block for block, row in zip(blocks, rows, strict=True) if row[0]]

    def _write_objects(self, objects: Mapping[str, Any], ready: Callable[[], None]) -> None:
        for name, data in objects.items():
            self._objects.put_part(name, None if data is None else bytes(data), ready)

    def _write_new(self, name: str, data: bytes) -> bool:
        return self._objects.put_new(name, data)
