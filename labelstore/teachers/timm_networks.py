"""timm's networks: by name, from a hub or a folder, with weights of their own or a checkpoint's.

This and `labelstore.teachers.checkpoints` are the modules that import timm, when it is first
needed.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelstore.errors import NotFoundError, TeacherError, UsageError, one_line
from labelstore.images.preprocessing import Preprocessing
from labelstore.teachers.checkpoints import classes_of, read_checkpoint, without_prefix
from labelstore.teachers.outputs import NETWORK_ERRORS
from labelstore.teachers.weights import check_hub, load_state_dict_by_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

__all__ = [
    "build",
    "class_names_of",
    "classes_of_name",
    "create_model",
    "imagenet_class_names",
    "preprocessing_of",
]

_HUB, _FOLDER = "hf-hub:", "local-dir:"
"""How timm names a network that was saved with its configuration, on a model hub or in a folder."""

_WEIGHTS_MEND = "give a checkpoint with its weights, or the word none for untrained ones"


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

    if not _is_saved(name):
        _pretrained_config(name)
    # devices=[]: weights are drawn on the CPU; the accelerators' generators are left alone.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            if name.startswith(_HUB):
                check_hub(name.removeprefix(_HUB))
            return timm.create_model(name, pretrained=False, **options)  # type: ignore[no-any-return]
        except _loading_errors() as error:
            if name.startswith(_HUB):
                raise TeacherError(
                    f"cannot get the configuration of {name} ({one_line(error)}): check the name "
                    "and the way to the hub, or give timm:local-dir:PATH with a copy of it."
                ) from error
            with_options = f" with {options}" if options else ""
            mend = "leave these options out, or choose" if options else "choose"
            raise TeacherError(
                f"timm cannot build {name}{with_options} ({one_line(error)}): {mend} another "
                "network."
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


def _is_saved(name: str) -> bool:
    """Whether a name is that of a network which was saved with its configuration."""
    return name.startswith((_HUB, _FOLDER))


def build(
    name: str, checkpoint: str | None, size: int | None, num_classes: int | None
) -> torch.nn.Module:
    """The network with its weights, resized for inputs of another side where it has to be."""
    # Everything that is cheap comes before a network is built.
    config = None if _is_saved(name) else _pretrained_config(name)
    tensors = None
    if checkpoint not in (None, "none"):
        tensors = read_checkpoint(Path(checkpoint))
    options: dict[str, Any] = {}
    resize = None
    if size is not None and (config is None or getattr(config, "fixed_input_size", False)):
        untrained = create_model(name)
        if untrained.pretrained_cfg.get("fixed_input_size"):  # type: ignore[union-attr,operator]
            resize = getattr(untrained, "set_input_size", None)
            if resize is None:
                options["img_size"] = size
    if checkpoint is None:
        model = _pretrained_model(name, config, options)
        if num_classes not in (None, _head_of(model)):
            raise UsageError(
                f"num_classes is {num_classes} and the pretrained weights of {name} have "
                f"{_head_of(model)} classes: leave num_classes out, or give a checkpoint "
                "with weights of so many.",
                arguments=("num_classes", "checkpoint"),
            )
    elif tensors is None:
        head = {} if num_classes is None else {"num_classes": num_classes}
        model = create_model(name, **options, **head)
    else:
        model = _trained_model(name, tensors, str(checkpoint), options, num_classes)
    if not _head_of(model):
        raise _without_classifier(name)
    fine_tuned = tensors is not None or num_classes is not None or config is None
    if not fine_tuned:
        _check_classifies(name, _head_of(model))
    if resize is not None:
        try:
            model.set_input_size(img_size=(size, size))  # type: ignore[operator]
        except NETWORK_ERRORS as error:
            raise TeacherError(
                f"{name} cannot take images of {size} x {size} pixels ({one_line(error)}): choose "
                "another size.",
                arguments=("size",),
            ) from error
    return model


def _trained_model(
    name: str,
    tensors: dict[str, torch.Tensor],
    origin: str,
    options: Mapping[str, Any],
    num_classes: int | None,
) -> torch.nn.Module:
    """The network with the weights of a checkpoint, and as many classes as these have."""
    head = {} if num_classes is None else {"num_classes": num_classes}
    model = create_model(name, **options, **head)
    classifier: Any = model.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr,operator]
    classifiers = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    body = [
        own
        for own in model.state_dict()
        if not own.startswith(tuple(f"{module}." for module in classifiers))
    ]
    tensors = without_prefix(tensors, body, origin)
    classes = classes_of(tensors, classifiers)
    if classes is not None and classes != _head_of(model):
        if num_classes is not None:
            raise UsageError(
                f"num_classes is {num_classes} and the classifier in {origin} has {classes} "
                "classes: leave num_classes out.",
                arguments=("num_classes",),
            )
        model = create_model(name, **options, num_classes=classes)
    load_state_dict_by_name(model, tensors, origin)
    return model


def _head_of(model: torch.nn.Module) -> int:
    """How many outputs a timm network has; 0 without a classifier."""
    classes: Any = getattr(model, "num_classes", 1)
    return int(classes or 0)


def _without_classifier(name: str) -> TeacherError:
    return TeacherError(
        f"{name} has no classifier: choose a network that classifies, or give a "
        "checkpoint with the weights of one that was trained on it.",
        arguments=("checkpoint",),
    )


def _check_classifies(name: str, outputs: int) -> None:
    """TeacherError where so many outputs of a network of timm's own are an embedding."""
    if _is_projection(outputs):
        raise TeacherError(
            f"{name} gives an embedding of {outputs} numbers, expected logits of classes: "
            "choose a network that classifies (fine-tuned ones are called _ft_in1k or the like), "
            "or write a python: factory that multiplies by the embeddings of the classes' texts."
        )


def classes_of_name(name: str, num_classes: int | None) -> tuple[int, tuple[str, ...] | None]:
    """How many classes a network of timm has and what they are called: no network is built.

    Args:
        name: of timm's own networks, without the prefix of a hub or a folder.
        num_classes: of one whose classifier was trained anew.

    Raises:
        TeacherError: timm has no such network, or it does not classify.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config = _pretrained_config(name)
    own = int(getattr(config, "num_classes", 0) or 0)
    if num_classes is None:
        if not own:
            raise _without_classifier(name)
        _check_classifies(name, own)
    count = num_classes or own
    names = getattr(config, "label_names", None)
    if isinstance(names, list | tuple) and len(names) == count:
        return count, tuple(str(label) for label in names)
    subset = infer_imagenet_subset({"num_classes": count})
    return count, None if subset is None else tuple(ImageNetInfo(subset).label_names())


def _is_projection(outputs: int) -> bool:
    """Whether so many outputs of a network of timm's own are a CLIP tower's embedding.

    timm's classifiers have the 1,000 classes of ImageNet or more than 10,000.
    """
    return outputs < 10_000 and outputs != 1000


def _pretrained_model(name: str, config: Any, options: Mapping[str, Any]) -> torch.nn.Module:
    import timm

    if (
        name.startswith(_FOLDER)
        and not (Path(name.removeprefix(_FOLDER)) / "config.json").is_file()
    ):
        raise NotFoundError(
            f"there is no config.json in the folder {name.removeprefix(_FOLDER)}: give one that "
            "timm.models.save_for_hf has made, or a clone of a model hub's repository."
        )
    if not _is_saved(name) and (config is None or not config.has_weights):
        raise TeacherError(
            f"timm has no pretrained weights of {name}: {_WEIGHTS_MEND}.", arguments=("checkpoint",)
        )
    hub_id: str | None = getattr(config, "hf_hub_id", None)
    repository = name.removeprefix(_HUB) if name.startswith(_HUB) else hub_id
    try:
        if repository:
            check_hub(repository)
        return timm.create_model(name, pretrained=True, **options)  # type: ignore[no-any-return]
    except _loading_errors() as error:
        whose = "the" if _is_saved(name) else "timm's"
        raise TeacherError(
            f"cannot get {whose} pretrained weights of {name} ({one_line(error)}): "
            f"{_WEIGHTS_MEND}.",
            arguments=("checkpoint",),
        ) from error


def _loading_errors() -> tuple[type[Exception], ...]:
    """What is raised where configurations and weights cannot be had or read."""
    from huggingface_hub.errors import HfHubHTTPError
    from safetensors import SafetensorError

    # The HTTP library's own base class: which library that is depends on the hub client's version.
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    return (OSError, *NETWORK_ERRORS, AttributeError, EOFError, SafetensorError, http_error)


def preprocessing_of(name: str, model: torch.nn.Module, size: int | None) -> Preprocessing:
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
        # Above 1 timm shows a network more than the photo, in a black frame: this is all of it.
        crop_share=min(config["crop_pct"], 1.0),
    )


def class_names_of(model: torch.nn.Module) -> tuple[str, ...] | None:
    """The names in the network's configuration, or the WordNet ids of an ImageNet classifier, which
    timm tells by the number of classes."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    names: Any = getattr(model, "pretrained_cfg", {}).get("label_names")
    if isinstance(names, list | tuple) and len(names) == _head_of(model):
        return tuple(str(name) for name in names)
    subset = infer_imagenet_subset(model)
    return None if subset is None else tuple(ImageNetInfo(subset).label_names())
