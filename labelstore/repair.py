"""Make the blocks of a store anew that are damaged or missing, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from labelstore.errors import MismatchError, StoreError, UsageError
from labelstore.generate import Recipe, Report, generate
from labelstore.store import opened
from labelstore.verify import VerifyReport, verify
from labelstore.views import ViewLaw
from labelstore.writer import StoreWriter

if TYPE_CHECKING:
    import os

    from labelstore.inference import Teacher
    from labelstore.pipeline import Progress
    from labelstore.sources import ImageSource
    from labelstore.store import Store

__all__ = ["repair"]


def repair(
    store: Store | str | os.PathLike[str],
    source: ImageSource,
    teacher: Teacher,
    *,
    batch_size: int | None = None,
    workers: int = 2,
    on_error: Literal["stop", "skip"] = "stop",
    allow_version_drift: bool = False,
    progress: Progress | None = None,
) -> tuple[VerifyReport, Report | None]:
    """Read every block, withdraw the damaged ones, and let the teacher make them again.

    Blocks that are right are not touched. A run that is interrupted leaves blocks uncommitted,
    never wrong, and is gone on with by the same call.

    Args:
        store: one that ``generate`` made, open or as a path or URL; its manifest says with what
            settings.
        source, teacher: those it was made with, the teacher on the same kind of device.
        batch_size, workers, on_error, allow_version_drift, progress: as for ``generate``.

    Returns:
        What was found, and what was made; None for the latter where nothing was wrong.

    Raises:
        MismatchError: the photos, teacher, device or libraries are not those of the store, or
            ``generate`` did not make it. CorruptError: the manifest or the table of images is
            damaged, from which nothing can be made. StoreError: the system refuses to read a part,
            of which nothing is known then. The others of ``generate``.
    """
    store = opened(store)
    manifest = store.manifest
    if manifest.origin is not None or manifest.teacher is None:
        raise MismatchError(
            f"{store.path} was not made by a teacher's run: make it again from the stores or "
            "labels that it came from."
        )
    if not isinstance(manifest.law, ViewLaw):
        raise UsageError(f"{store.path} has no view law, so its views cannot be cut again.")
    if tuple(source.keys) != store.keys:
        raise MismatchError(
            f"{source.path} has other images than {store.path}: give the folder that it was made "
            "from."
        )
    made_by = teacher.describe()
    how = {name: manifest.teacher.get(name) for name in ("resize", "compiled")}
    for name, value in manifest.teacher.items():
        if name not in how and made_by.get(name) != value:
            raise MismatchError(
                f"the teacher's {name.replace('_', ' ')} is {made_by.get(name)}, {store.path} was "
                f"made with {value}: give the same."
            )
    report = verify(store)
    if report.whole:
        return report, None
    refused = next((p for p in report.problems if p.kind == StoreError.kind), None)
    if refused is not None:
        raise StoreError(f"{refused.message} (No block was made anew.)")
    damaged = sorted({p.block for p in report.problems if p.kind != "incomplete"})
    recipe = Recipe(
        num_views=manifest.num_views,
        k=manifest.k,
        law=manifest.law,
        temperature=1.0 if manifest.temperature is None else manifest.temperature,
        label_type=manifest.label_type,
        quantizer=manifest.quantizer,
        prior_size=manifest.prior_size,
        top_p=manifest.top_p,
        block_images=manifest.block_images,
        group_views=manifest.group_views,
    )
    with StoreWriter(
        store.path, manifest, store.keys, store.targets, allow_version_drift=True
    ) as writer:
        for block in damaged:
            writer.withdraw(block)
    made = generate(
        source,
        store.targets,
        teacher,
        store.path,
        recipe,
        batch_size=batch_size,
        workers=workers,
        resize="device" if how["resize"] == "device" else "workers",
        compiled=bool(how["compiled"]),
        on_error=on_error,
        allow_version_drift=allow_version_drift,
        progress=progress,
    )
    return report, made
