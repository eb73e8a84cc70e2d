"""How a store came to be: its teachers, and what was done to make it of other stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelstore.store.lineage import lineage, teacher_names
from labelstore.store.store import opened

if TYPE_CHECKING:
    import os

    from labelstore.store.store import Store

__all__ = ["history"]


def history(store: Store | str | os.PathLike[str]) -> dict[str, Any]:
    """Where a store's labels come from, ready for JSON; nothing but the manifest is read.

    Args:
        store: open, or as a path or URL.

    Returns:
        a dict of

        - ``report_version``: 1;
        - ``store``: ``path`` and ``id``;
        - ``teachers``: ``spec``, ``checkpoint``, ``weights_digest``, ``device`` and ``precision``
          of each teacher whose labels went in; [] where none is known;
        - ``teacher_names``: what each of them is called, also where the store knows the name alone,
          as of converted labels; [] where none is known;
        - ``libraries``: versions of the libraries that decided pixels and labels, by name;
        - ``steps``: what was done to stores since, the earliest first: ``operation``, ``stores``
          (the ids of what was read), ``result`` (the id of what was made), ``release`` (of
          labelstore, None where it was not kept) and ``settings``.

    Raises:
        Those of ``labelstore.open``.
    """
    store = opened(store)
    manifest = store.manifest
    steps = []
    for step in lineage(manifest):
        settings = dict(step["settings"])
        release = settings.pop("labelstore", None)
        steps.append({**step, "release": release, "settings": settings})
    fields = ("spec", "checkpoint", "weights_digest", "device", "precision")
    return {
        "report_version": 1,
        "store": {"path": str(store.path), "id": manifest.id},
        "teacher_names": list(teacher_names(manifest)),
        "teachers": [{name: teacher.get(name) for name in fields} for teacher in manifest.teachers],
        "libraries": dict(manifest.producer),
        "steps": steps,
    }
