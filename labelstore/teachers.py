"""Teachers: from a short spec to a network that turns crops into logits.

This is the only module that imports timm. torch and timm are imported when first needed. What a
teacher does once it is built is in `labelstore.inference`, whose names are offered here too.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelstore.devices import DEVICES, PRECISIONS, checked_device
from labelstore.errors import NotFoundError, TeacherError, UsageError
from labelstore.inference import (
    NETWORK_ERRORS,
    Preprocessing,
    Teacher,
    normalize,
    one_line,
)
from labelstore.topk import top_k
from labelstore.weights import check_hub, load_state_dict_by_name, load_state_dict_in_order

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEVICES",
    "PRECISIONS",
    "Preprocessing",
    "Teacher",
    "create_model",
    "imagenet_class_names",
    "load_state_dict_in_order",
    "load_teacher",
    "normalize",
    "top_k",
]

_FORMS = "timm:NAME, or python:package.module:factory"
_WEIGHTS_MEND = "give --checkpoint FILE with its weights, or --checkpoint none for untrained ones"


def load_teacher(
    spec: str,
    *,
    checkpoint: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    size: int | None = None,
    allow_nondeterministic: bool = False,
) -> Teacher:
    """Build a teacher.

    Args:
        spec: ``timm:NAME``, a network of timm, or ``python:package.module:factory``, a function of
            no arguments that returns ``(torch.nn.Module, Preprocessing)``; in place of the latter,
            a mapping with its fields and, if known, ``class_names``. The working directory is put
            on ``sys.path`` for it, as ``python -m`` does.
        checkpoint: of a timm network: a safetensors or torch file with its weights, ``"none"`` for
            untrained weights (the same on every call), or None for timm's pretrained weights.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"``: the best of them that is there.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"`` (autocast; weights stay in float32).
        size: side of the square input in pixels; None for the network's own.
        allow_nondeterministic: as for `Teacher`.

    Raises:
        UsageError: the spec has another form, or an option does not go with it or this machine.
        NotFoundError: there is no such checkpoint file.
        TeacherError: the network cannot be built, or its weights cannot be had or do not fit it.
    """
    kind, _, name = spec.partition(":")
    if kind not in ("timm", "python") or not name:
        raise UsageError(f"the teacher is {spec!r}, expected {_FORMS}.")
    if size is not None and size < 1:
        raise UsageError(f"the input size is {size}, expected at least 1 pixel.")
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
                "weights: leave out --checkpoint."
            )
        model, preprocessing, class_names = _run_factory(name)
        if size is not None:
            preprocessing = dataclasses.replace(preprocessing, input_size=(size, size))
        return Teacher(model, preprocessing, class_names=class_names, **options)

    model = _timm_model(name, checkpoint, size)
    return Teacher(
        model,
        _timm_preprocessing(name, model, size),
        class_names=_timm_class_names(model),
        checkpoint="pretrained" if checkpoint is None else Path(checkpoint).name,
        untrained=checkpoint == "none",
        **options,
    )


def create_model(name: str, **options: Any) -> torch.nn.Module:
    """A timm network with untrained weights, the same on every call.

    Args:
        name: timm's name, with or without a tag.
        options: passed on to ``timm.create_model``.

    Raises:
        TeacherError: timm has no such network, or it does not take the options.
    """
    import timm
    import torch

    _pretrained_config(name)
    # devices=[]: weights are drawn on the CPU; the accelerators' generators are left alone.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            return timm.create_model(name, pretrained=False, **options)  # type: ignore[no-any-return]
        except NETWORK_ERRORS as error:
            raise TeacherError(
                f"timm cannot build {name} with {options} ({one_line(error)}): leave these "
                "options out, or choose another network."
            ) from error


def imagenet_class_names() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ImageNet-1k, in the order of its class ids."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def _pretrained_config(name: str) -> Any:
    """timm's description of a network's pretrained weights; None where it has none."""
    import timm

    architecture, _, tag = name.partition(".")
    try:
        if timm.is_model(architecture):
            return timm.get_pretrained_cfg(name)
    except RuntimeError:  # timm's way to say that there is no such tag
        known = timm.list_pretrained(f"{architecture}.*")
    else:
        known = timm.list_pretrained() if tag else timm.list_models()
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f": did you mean {' or '.join(close)}?" if close else ", see timm.list_models()."
    raise TeacherError(f"timm has no network {name!r}{hint}")


def _timm_model(name: str, checkpoint: str | None, size: int | None) -> torch.nn.Module:
    """The network with its weights, resized for inputs of another side where it has to be."""
    config = _pretrained_config(name)
    if checkpoint not in (None, "none") and not Path(checkpoint).is_file():
        raise NotFoundError(
            f"there is no checkpoint file {checkpoint}: give the path of a safetensors or torch "
            "file, or none for untrained weights."
        )
    options: dict[str, Any] = {}
    resize = None
    if size is not None and getattr(config, "fixed_input_size", False):
        resize = getattr(create_model(name), "set_input_size", None)
        if resize is None:
            options["img_size"] = size
    if checkpoint is None:
        model = _pretrained_model(name, config, options)
    else:
        model = create_model(name, **options)
        if checkpoint != "none":
            load_state_dict_by_name(model, _read_checkpoint(Path(checkpoint)), checkpoint)
    if not getattr(model, "num_classes", 1):
        raise TeacherError(f"{name} has no classifier: choose a network that classifies.")
    if resize is not None:
        try:
            model.set_input_size(img_size=(size, size))  # type: ignore[operator]
        except NETWORK_ERRORS as error:
            raise TeacherError(
                f"{name} cannot take images of {size} x {size} pixels ({one_line(error)}): choose "
                "another --size."
            ) from error
    return model


def _pretrained_model(name: str, config: Any, options: Mapping[str, Any]) -> torch.nn.Module:
    import timm
    from huggingface_hub.errors import HfHubHTTPError
    from safetensors import SafetensorError

    if config is None or not config.has_weights:
        raise TeacherError(f"timm has no pretrained weights of {name}: {_WEIGHTS_MEND}.")
    # The HTTP library's own base class: which library that is depends on the hub client's version.
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        if config.hf_hub_id:
            check_hub(config.hf_hub_id)
        return timm.create_model(name, pretrained=True, **options)  # type: ignore[no-any-return]
    except (OSError, RuntimeError, TypeError, ValueError, SafetensorError, http_error) as error:
        raise TeacherError(
            f"cannot get timm's pretrained weights of {name} ({one_line(error)}): {_WEIGHTS_MEND}."
        ) from error


def _read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint file, out of the wrappers that training scripts put around."""
    import timm
    import torch
    from safetensors import SafetensorError

    try:
        tensors: Any = timm.models.load_state_dict(str(path), weights_only=True)
    except SafetensorError as error:
        raise TeacherError(
            f"cannot read the weights in {path} ({one_line(error)}): fetch or save the file again."
        ) from error
    except (*NETWORK_ERRORS, AttributeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise TeacherError(
            f"cannot read the weights in {path}: it is damaged, is no torch file, or holds Python "
            "objects besides tensors, which are not loaded since they may run code: save the "
            "model's state dict alone, best as safetensors."
        ) from error
    if not tensors or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise TeacherError(
            f"{path} holds no state dict, expected names and tensors, bare or under 'state_dict' "
            "or 'model': save the model's state dict alone."
        )
    return dict(tensors)


def _timm_preprocessing(name: str, model: torch.nn.Module, size: int | None) -> Preprocessing:
    from timm.data import resolve_data_config

    config = resolve_data_config({}, model=model)
    channels, height, width = config["input_size"]
    if channels != 3:
        raise TeacherError(f"{name} takes {channels} channels, expected 3: choose another network.")
    return Preprocessing(
        input_size=(height, width) if size is None else (size, size),
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
        crop_share=config["crop_pct"],
    )


def _timm_class_names(model: torch.nn.Module) -> tuple[str, ...] | None:
    """The WordNet ids of an ImageNet classifier, which timm tells by the number of classes."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(model)
    return None if subset is None else tuple(ImageNetInfo(subset).label_names())


def _run_factory(name: str) -> tuple[torch.nn.Module, Preprocessing, Sequence[str] | None]:
    """What the function ``package.module:factory`` returns, checked."""
    import torch

    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"the teacher is 'python:{name}', expected {_FORMS}.")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise TeacherError(
            f"cannot import the module {module_name} ({one_line(error)}): install it, or run in "
            "the folder that holds it."
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise TeacherError(
            f"the module {module_name} has no function {attribute}: define it, to return (model, "
            "preprocessing)."
        )
    made = factory()
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[0], torch.nn.Module):
        raise TeacherError(
            f"{name} returned {_kind_of(made)}, expected (torch.nn.Module, Preprocessing): return "
            "these two."
        )
    model, preprocessing = made
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
            f"{name} returned {_kind_of(made)}, expected (torch.nn.Module, Preprocessing): return "
            "these two."
        )
    return model, preprocessing, class_names


def _kind_of(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(type(item).__name__ for item in value)})"
    return type(value).__name__
