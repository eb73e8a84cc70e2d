"""The part of a store that is exported, and what a format of another project is."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from labelstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import Any

    import numpy.typing as npt

    from labelstore.labels.top_k import TopK
    from labelstore.store.store import Store
    from labelstore.views.law import Views

    Tell = Callable[[int, int], None]
    """Called with the images and views done since it was called last."""

__all__ = ["ExportFormat", "ExportPart", "LabelRun", "require_unique", "safe_key"]

RUN_VIEWS = 2**14
"""Views whose labels are in memory at a time, about: a run has at least one image."""


@dataclass(frozen=True)
class LabelRun:
    """Labels of n neighbouring images, V views of each."""

    images: npt.NDArray[np.int64]
    """(n,) positions in the store, rising."""
    views: npt.NDArray[np.integer[Any]]
    """(n, V) view numbers."""
    labels: TopK
    """(n, V, k)."""
    crops: Views | None
    """(n, V) boxes and flips; None where the store does not say which crops they are."""


@dataclass(frozen=True)
class ExportPart:
    """Labelled images of a finished store, and views of each."""

    store: Store
    rows: npt.NDArray[np.int64]
    """(N,) positions of the images, rising; those without labels are passed over."""
    views: npt.NDArray[np.integer[Any]] | range
    """(N, V) of each image its own, rising, or the same of all."""

    @property
    def num_views(self) -> int:
        """Views of each image."""
        return len(self.views) if isinstance(self.views, range) else int(self.views.shape[1])

    @property
    def images(self) -> npt.NDArray[np.int64]:
        """(n,) positions of the images that have labels, rising."""
        return self.rows[self.store.labelled()[self.rows]]

    @property
    def keys(self) -> list[str]:
        """Keys of the images that have labels."""
        return [self.store.keys[row] for row in self.images.tolist()]

    def runs(self, tell: Tell | None = None) -> Iterator[LabelRun]:
        """The labels in order, some images at a time; every label has been verified.

        Memory is taken for one block of the store and one run.

        Args:
            tell: called after each run has been used.

        Raises:
            IncompleteError, CorruptError: as reading the store.
        """
        store, manifest = self.store, self.store.manifest
        size = max(RUN_VIEWS // self.num_views, 1)
        blocks = self.rows // manifest.block_images
        edges = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(self.rows)]
        for start, stop in itertools.pairwise(edges):
            rows = self.rows[start:stop]
            numbers = np.broadcast_to(
                np.arange(self.views.start, self.views.stop)
                if isinstance(self.views, range)
                else self.views[start:stop],
                (len(rows), self.num_views),
            )
            first = int(numbers.min()) // manifest.group_views
            groups = range(first, int(numbers.max()) // manifest.group_views + 1)
            done = 0
            for positions, labels in store.iter_labels(int(blocks[start]), groups, size):
                place = np.searchsorted(rows, positions)
                mask = rows[np.minimum(place, len(rows) - 1)] == positions
                if not mask.any():
                    continue
                mine, own = positions[mask], numbers[place[mask]]
                columns = own - first * manifest.group_views
                yield LabelRun(
                    mine,
                    own,
                    labels[np.flatnonzero(mask)[:, None], columns],
                    None if store.law is None else store.views(mine[:, None], own),
                )
                done += len(mine)
                if tell is not None:
                    tell(len(mine), len(mine) * self.num_views)
            if tell is not None and done < len(rows):
                tell(len(rows) - done, (len(rows) - done) * self.num_views)


class ExportFormat(Protocol):
    """How labels become files of another project; a frozen data class with its settings."""

    name: ClassVar[str]
    """What the project or format is called."""
    suffix: ClassVar[str]
    """What the file's name ends with; empty where it is a folder."""

    def check(self, part: ExportPart) -> None:
        """Refuse what cannot be written, before anything is; LabelStoreError with the mend."""

    def write(
        self, part: ExportPart, folder: Path, about: Mapping[str, Any], tell: Tell | None
    ) -> Mapping[str, int]:
        """Write the labels.

        Args:
            part: what ``check`` has let pass.
            folder: an empty one. A format of one file calls it ``name`` and ``suffix``.
            about: the document that says what the labels are, for JSON.
            tell: called with the images and views done since it was called last.

        Returns:
            what was left out: a reason -> how many images.
        """


def safe_key(key: str, what: str) -> str:
    """A key that may be part of a path below a folder.

    Args:
        key: of an image. what: that is named by it, for the message.

    Raises:
        UsageError: a path that leads elsewhere.
    """
    if any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key or "\\" in key:
        raise UsageError(
            f"the key {key!r} is no plain relative path, and {what} is named by it: leave that "
            "image out."
        )
    return key


def require_unique(names: Iterable[tuple[str, str]], what: str) -> None:
    """UsageError where two keys get the same name.

    Args:
        names: pairs of a key and its name. what: that is named, for the message.
    """
    owners: dict[str, str] = {}
    for key, name in names:
        if owners.setdefault(name, key) != key:
            raise UsageError(
                f"{what} of {key!r} and of {owners[name]!r} would both be called {name!r}: leave "
                "one of the two out, or rename the photos without a dot in their names and label "
                "them anew."
            )
