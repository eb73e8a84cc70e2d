"""Blocks of a store that has grown, made anew by its teacher as they grew: step by step.

An image's list of likely classes is of the views that it was first labelled with, so that a block
that is labelled at once would have other lists than its neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from labelstore.format.blocks import BlockCodes
from labelstore.images.sources.ordered import OrderedSource
from labelstore.producer.generation import generate_together
from labelstore.producer.growth.growth import Growth
from labelstore.producer.progress import Silent
from labelstore.producer.settings import LabelSettings, Output
from labelstore.storage.workspaces import workspace
from labelstore.store.lineage import lineage
from labelstore.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from labelstore.format.manifest import Manifest
    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.engines.protocol import Engine
    from labelstore.producer.progress import Progress
    from labelstore.producer.settings import RunOptions

__all__ = ["Regrowth", "growth_stages"]


def growth_stages(manifest: Manifest) -> list[tuple[int, int]]:
    """The numbers of images and of views that a store had before each growth, and that it has.

    What was done before other operations is not looked at, but before those that leave lists as
    they are.
    """
    stages = [(manifest.num_images, manifest.num_views)]
    for step in reversed(lineage(manifest)):
        if step["operation"] == "publish" or (
            step["operation"] == "recode" and not step["settings"].get("changed")
        ):
            continue
        images, views = (step["settings"].get(name) for name in ("images", "views"))
        if step["operation"] != "grow" or not (_is_pair(images) and _is_pair(views)):
            break
        stages.insert(0, (images[0], views[0]))
    return stages


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(number) is int and number > 0 for number in value)
    )


class _ViewsAlone(Silent):
    """Tells of views as they are labelled; an image's are labelled in several goes."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def update(self, images: int, views: int) -> None:
        """Pass the views on."""
        self._progress.update(0, views)


class Regrowth:
    """Makes blocks of a store anew.

    Args:
        store: a teacher's, that may have grown. source: its images, in its order.
        engine: of the one teacher. options: of the run.
        progress: told of views as they are labelled, and of images as their block is there.

    Attributes:
        source: of the images. views: how many were labelled. undecodable: position of each image
            that has no labels, and why.
    """

    def __init__(
        self,
        store: Store,
        source: ImageSource,
        engine: Engine,
        options: RunOptions,
        progress: Progress | None = None,
    ) -> None:
        self._store, self.source, self._engine = store, source, engine
        self._options, self._progress = options, progress or Silent()
        self._suffix = "zarr" if store.manifest.encoding == "codes" else "parquet"
        self.views = 0
        self.undecodable: dict[int, str] = {}

    def codes(self, block: int) -> BlockCodes:
        """A block as a store of its own, made and grown in a folder of temporary files.

        Raises:
            Those of ``generate``.
        """
        rows = self._store.manifest.block_slice(block)
        with workspace() as folder:
            staged: Store | None = None
            for number, (images, views) in enumerate(growth_stages(self._store.manifest)):
                count = min(images, rows.stop) - rows.start
                if count > 0 and (staged is None or (count, views) != _shape(staged)):
                    keys = self._store.keys[rows.start : rows.start + count]
                    path = folder / f"{number}.{self._suffix}"
                    staged = self._stage(staged, keys, views, path)
            parts = cast("Store", staged).block_codes(0)
            # Arrays of one's own, as a labelled block has them.
            of_images, lists, of_views = ({n: a.copy() for n, a in p.items()} for p in parts)
            codes = BlockCodes(of_images, lists, of_views)
        self._progress.update(rows.stop - rows.start, 0)
        return codes

    def _stage(self, old: Store | None, keys: tuple[str, ...], views: int, path: Path) -> Store:
        """What a block was after a growth, or at first."""
        source = cast("ImageSource", OrderedSource(self.source, keys))
        targets = np.full(len(keys), -1, dtype=np.int32)
        if old is None or not old.labelled().any():
            settings = LabelSettings.of_manifest(self._store.manifest, views)
            output = Output(targets, path, settings)
        else:
            growth = Growth.of(old, source, path, views, workers=self._options.workers)
            settings = LabelSettings.of_manifest(old.manifest, views)
            output = Output(targets, path, settings, growth=growth)
        (report,) = generate_together(
            source,
            [output],
            self._engine,
            options=self._options,
            progress=_ViewsAlone(self._progress),
        )
        self.views += report.views_made
        for key, reason in report.unreadable.items():
            self.undecodable[int(self._store.index_of(key))] = reason
        return Store(path)


def _shape(store: Store) -> tuple[int, int]:
    return store.num_images, store.num_views
