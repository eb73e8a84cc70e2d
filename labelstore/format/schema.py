"""Whether a JSON document is a manifest: the schema, and what numbers must be to one another."""

from __future__ import annotations

import functools
import hashlib
import json
from importlib import resources
from typing import Any

__all__ = ["number_problem", "schema_problem"]


@functools.cache
def _validator() -> Any:
    import jsonschema

    text = resources.files("labelstore.schemas").joinpath("manifest.schema.json").read_text()
    draft = jsonschema.Draft202012Validator
    # JSON Schema takes 1.0 for an integer, and nothing else here does.
    types = draft.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return jsonschema.validators.extend(draft, type_checker=types)(json.loads(text))


_REMEMBERED = 256

_fitting: set[bytes] = set()
"""Digests of documents that fit. To look at one takes milliseconds, the more the more of a probe it
has; a writer asks several times, and each reader of a store again."""


def schema_problem(document: Any) -> str | None:
    """Where a document breaks the schema, and how; None when it does not."""
    # Unlike JSON, it tells 1 from True and a list from a tuple.
    digest = hashlib.sha256(repr(document).encode()).digest()
    if digest in _fitting:
        return None
    error = next(iter(_validator().iter_errors(document)), None)
    if error is None:
        if len(_fitting) >= _REMEMBERED:
            _fitting.clear()
        _fitting.add(digest)
        return None
    if not error.absolute_path and error.validator in ("anyOf", "not"):
        version = document["format_version"]
        return f"format_version ({version}, which goes with another law or layout)"
    place = "/".join(str(step) for step in error.absolute_path) or "its top level"
    return f"{place} ({error.message[:200]})"


def number_problem(document: Any) -> str | None:
    """Where numbers of a document that fits the schema make no store; None when they do."""
    labels, views = document["labels"], document["views"]
    classes, names, law = labels["num_classes"], labels["class_names"], views["law"]
    for name in ("k", "prior_size"):
        if labels[name] > classes:
            return f"labels/{name} ({labels[name]} of {classes} classes)"
    if names is not None and len(names) != classes:
        return f"labels/class_names ({len(names)} names of {classes} classes)"
    if isinstance(law, dict):
        for name in ("scale", "ratio"):
            if law[name][0] > law[name][1]:
                return f"views/law/{name} ({law[name]} falls)"
    for number, entry in enumerate(document["probe"]):
        if entry["view"] >= views["count"]:
            return f"probe/{number}/view ({entry['view']} of {views['count']} views)"
    return None
