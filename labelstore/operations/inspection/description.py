"""A store's manifest in short, and its bytes, ready for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelstore.statistics.confidence import share_of
from labelstore.store.lineage import teacher_names
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    from labelstore.store.store import Store

__all__ = ["bytes_on_disk", "describe"]


def describe(store: Store) -> dict[str, Any]:
    """What ``labelstore.operations.inspection.inspect.report`` says of the ``store``."""
    manifest = store.manifest
    labelled = int(store.labelled().sum())
    missing = store.missing_blocks()
    runs = [manifest.block_slice(block) for block in missing]
    names = ("spec", "checkpoint", "input_size", "untrained")
    return {
        "path": str(store.path),
        "id": manifest.id,
        "complete": not missing,
        "images": manifest.num_images,
        "views": manifest.num_views,
        "crops": manifest.num_images * manifest.num_views,
        "labelled_images": labelled,
        "labelled_crops": labelled * manifest.num_views,
        "unreadable_images": len(store.unreadable()),
        "blocks": manifest.num_blocks,
        "missing_blocks": len(missing),
        "missing_images": sum(run.stop - run.start for run in runs),
        "k": manifest.k,
        "classes": manifest.num_classes,
        "label_type": manifest.label_type,
        "temperature": manifest.temperature,
        "quantizer": manifest.quantizer,
        "unit_images": manifest.unit_images,
        "law": manifest.law.to_json() if isinstance(manifest.law, ViewLaw) else manifest.law,
        "teacher_names": list(teacher_names(manifest)),
        "teachers": [{name: teacher[name] for name in names} for teacher in manifest.teachers],
        "operation": None if manifest.origin is None else manifest.origin["operation"],
    }


def bytes_on_disk(store: Store) -> dict[str, Any]:
    """Bytes of each part, in all, and by labelled crop."""
    crops = int(store.labelled().sum()) * store.num_views
    parts = dict(sorted(store.bytes_by_part().items()))
    total = sum(parts.values())
    return {
        "parts": parts,
        "total": total,
        "per_crop": {part: share_of(size, crops) for part, size in parts.items()},
        "total_per_crop": share_of(total, crops),
    }
