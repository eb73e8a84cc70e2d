"""A store with more views of its images, or of more images, as a new store."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from labelstore.producer.engines.local import LocalEngine
from labelstore.producer.generation import generate_together
from labelstore.producer.growth.growth import Growth
from labelstore.producer.settings import DEFAULT_OPTIONS, LabelSettings, Output
from labelstore.store.store import opened
from labelstore.training.options import require_known

if TYPE_CHECKING:
    import os
    from typing import Unpack

    import numpy as np
    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.generation import Report
    from labelstore.producer.progress import Progress
    from labelstore.producer.settings import RunOptions
    from labelstore.store.store import Store
    from labelstore.teachers.teacher import Teacher

__all__ = ["GrowthOptions", "grow"]


class GrowthOptions(TypedDict, total=False):
    """What a store has when it has grown; what is not given is None, or False."""

    num_views: int | None
    """Of each image; as many as there are when None."""
    targets: npt.NDArray[np.int32] | None
    """(len(source),) ground truth in the source's order, -1 unknown; that of images of the old
    store must be as it is there. When None it is unknown of new images."""
    relabel_changed: bool
    """Label all views anew of photos that are other files than were labelled; else they are
    refused."""


def grow(
    store: Store | str | os.PathLike[str],
    source: ImageSource,
    teacher: Teacher,
    path: str | os.PathLike[str],
    *,
    options: RunOptions = DEFAULT_OPTIONS,
    progress: Progress | None = None,
    **growing: Unpack[GrowthOptions],
) -> Report:
    """Write a store that has another one's labels to the bit, and more views or images.

    Images stand in the old store's order, then new ones in the source's. Lists of likely classes of
    images that get more views stay as they are. The old store is only read; it may go once the new
    one is whole. The new one has another ``id``: a sampler's state of the old one is not its.

    Args:
        store: finished, of one teacher, open or as a path or URL.
        source: its photos and new ones; those that it lacks are kept as they are, where no further
            views are asked for.
        teacher: the one that made it, on the same kind of device.
        path: the new store, in the old one's format. One that the same call was interrupted in is
            gone on with.
        options, progress: as for ``generate``; ``resize`` and ``compiled`` are the old store's.
        growing: ``num_views``, ``targets`` and ``relabel_changed``, see
            ``labelstore.operations.lifecycle.grow.GrowthOptions``.

    Raises:
        MismatchError: teacher, libraries or photos are not those of the old store, or it is of
            labels to which a teacher's cannot be added. TypeError: an option that is none. The
            others of ``generate``.
    """
    require_known("grow", growing, GrowthOptions)
    store = opened(store)
    growth = Growth.of(
        store,
        source,
        path,
        growing.get("num_views"),
        relabel_changed=growing.get("relabel_changed", False),
        workers=options.workers,
    )
    manifest = store.manifest
    options = options.as_made(manifest)
    settings = LabelSettings.of_manifest(manifest, growth.plan.num_views)
    output = Output(growth.targets(growing.get("targets")), path, settings, growth=growth)
    with LocalEngine([teacher], options) as engine:
        return generate_together(
            growth.source, [output], engine, options=options, progress=progress
        )[0]
