"""Teachers by a short spec: a network of timm, or a function that builds one.

torch is imported when first needed.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelstore.errors import TeacherError, UsageError, one_line, require_packages
from labelstore.images.preprocessing import Preprocessing
from labelstore.teachers.devices import checked_device
from labelstore.teachers.teacher import Teacher
from labelstore.teachers.timm_networks import build, class_names_of, preprocessing_of

if TYPE_CHECKING:
    import torch

__all__ = ["facts_of", "load_teacher", "require_libraries"]

_FORMS = "timm:NAME, or python:package.module:factory"
_FILE = ".py"


def load_teacher(
    spec: str,
    *,
    checkpoint: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    size: int | None = None,
    num_classes: int | None = None,
    allow_nondeterministic: bool = False,
) -> Teacher:
    """Build a teacher.

    Args:
        spec: ``timm:NAME``, a network of timm; ``timm:hf-hub:OWNER/NAME`` or
            ``timm:local-dir:PATH``, one that timm saved with its configuration; or
            ``python:package.module:factory``, a function of no arguments that returns
            ``(torch.nn.Module, Preprocessing)``; in place of the latter, a mapping with its fields
            and, if known, ``class_names``. The working directory is put on ``sys.path`` for it, as
            ``python -m`` does.
        checkpoint: of a timm network: a safetensors or torch file with its weights, ``"none"`` for
            untrained weights (the same on every call), or None for timm's pretrained weights.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"``: the best of them that is there.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"`` (autocast; weights stay in float32).
        size: side of the square input in pixels; None for the network's own.
        num_classes: of a timm network whose classifier was trained anew; None for those of the
            checkpoint, or the network's own.
        allow_nondeterministic: as for `Teacher`.

    Raises:
        UsageError: the spec has another form, or an option does not go with it or this machine.
        MissingPackageError: torch, or timm for one of its networks, is not installed.
        NotFoundError: there is no such checkpoint file.
        TeacherError: the network cannot be built, or its weights cannot be had or do not fit it.
    """
    kind, _, name = spec.partition(":")
    if kind not in ("timm", "python") or not name:
        raise UsageError(f"the teacher is {spec!r}, expected {_FORMS}{_hint(spec)}.")
    if size is not None and size < 1:
        raise UsageError(f"the input size is {size}, expected at least 1 pixel.")
    if num_classes is not None and num_classes < 2:
        raise UsageError(
            f"num_classes is {num_classes}, expected at least 2.", arguments=("num_classes",)
        )
    require_libraries(spec)
    device, precision = checked_device(device, precision)
    options: dict[str, Any] = {
        "spec": spec,
        "device": device,
        "precision": precision,
        "allow_nondeterministic": allow_nondeterministic,
    }
    if kind == "python":
        if checkpoint is not None:
            raise UsageError(
                f"{spec} was given the checkpoint {checkpoint!r}, but a factory loads its own "
                "weights: leave the checkpoint out.",
                arguments=("checkpoint",),
            )
        if num_classes is not None:
            raise UsageError(
                f"{spec} was given num_classes {num_classes}, but a factory builds its own "
                "network: leave it out.",
                arguments=("num_classes",),
            )
        model, preprocessing, class_names = _run_factory(name)
        if size is not None:
            preprocessing = dataclasses.replace(preprocessing, input_size=(size, size))
        return Teacher(model, preprocessing, class_names=class_names, **options)

    model = build(name, checkpoint, size, num_classes)
    return Teacher(
        model,
        preprocessing_of(name, model, size),
        class_names=class_names_of(model),
        **options,
        **_weights_of(spec, checkpoint),
    )


def require_libraries(spec: str) -> None:
    """Say what a teacher's spec needs that is not here, before any work is done.

    Raises:
        MissingPackageError: torch, or timm for one of its networks, is not installed.
    """
    require_packages("a teacher", "torch", *(("timm",) if spec.startswith("timm:") else ()))


def facts_of(spec: str, checkpoint: str | None, precision: str) -> dict[str, Any]:
    """What ``Teacher.describe`` will say of a teacher, as far as it is known before it is built."""
    return {"spec": spec, "precision": precision, **_weights_of(spec, checkpoint)}


def _weights_of(spec: str, checkpoint: str | None) -> dict[str, Any]:
    """Where weights are from, as the manifest says it."""
    if spec.startswith("python:"):
        return {"checkpoint": "none", "untrained": False}
    return {
        "checkpoint": "pretrained" if checkpoint is None else Path(checkpoint).name,
        "untrained": checkpoint == "none",
    }


def _hint(spec: str) -> str:
    """A clause that says what was meant by a spec of neither form, where that can be told."""
    kind, _, name = spec.partition(":")
    path = name if kind == "python" else spec
    if path.endswith(_FILE):
        return f": give python:{_module_of(path)}:FUNCTION, in the folder that holds the file"
    if kind == "python" and name:
        return f": give python:{name}:FUNCTION"
    if spec in ("", "timm", "python") or ":" in spec:
        return ""
    return f": give timm:{spec} for a network of timm"


def _module_of(path: str) -> str:
    """The name by which a file is imported in its folder."""
    return Path(path).name.removesuffix(_FILE)


def _run_factory(name: str) -> tuple[torch.nn.Module, Preprocessing, Sequence[str] | None]:
    """What the function ``package.module:factory`` returns, checked."""
    import torch

    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        spec = f"python:{name}"
        raise UsageError(f"the teacher is {spec!r}, expected {_FORMS}{_hint(spec)}.")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        mend = "install it, or run in the folder that holds it"
        if module_name.endswith(_FILE):
            mend = f"give python:{_module_of(module_name)}:{attribute}, in the folder that holds it"
        raise TeacherError(
            f"cannot import the module {module_name} ({one_line(error)}): {mend}."
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise TeacherError(
            f"the module {module_name} has no function {attribute}: define it, to return (model, "
            "preprocessing)."
        )
    returned = factory()
    if (
        not isinstance(returned, tuple)
        or len(returned) != 2
        or not isinstance(returned[0], torch.nn.Module)
    ):
        raise TeacherError(
            f"{name} returned {_kind_of(returned)}, expected (torch.nn.Module, Preprocessing): "
            "return these two."
        )
    model, preprocessing = returned
    class_names: Sequence[str] | None = None
    if isinstance(preprocessing, Mapping):
        fields = dict(preprocessing)
        class_names = fields.pop("class_names", None)
        try:
            preprocessing = Preprocessing(**fields)
        except (TypeError, UsageError) as error:
            raise TeacherError(
                f"the preprocessing that {name} returned is unusable ({one_line(error)}): return "
                "the fields input_size, mean, std and interpolation."
            ) from error
    if not isinstance(preprocessing, Preprocessing):
        raise TeacherError(
            f"{name} returned {_kind_of(returned)}, expected (torch.nn.Module, Preprocessing): "
            "return these two."
        )
    return model, preprocessing, class_names


def _kind_of(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(type(output).__name__ for output in value)})"
    return type(value).__name__
