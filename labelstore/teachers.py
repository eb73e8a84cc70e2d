"""Teachers: a specification -> a callable from pixels to logits. The only module that uses timm."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import math
import socket
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from labelstore.errors import NotFoundError, TeacherError, UsageError
from labelstore.images import INTERPOLATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt
    import torch

__all__ = [
    "Preprocessing",
    "Teacher",
    "create_model",
    "imagenet_class_names",
    "load_state_dict_in_order",
    "load_teacher",
    "normalize",
    "top_k",
]

PRECISIONS = ("fp32", "bf16", "fp16")

_NO_WEIGHTS = "give --checkpoint FILE, or --checkpoint none for untrained weights (speed tests)"


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of its input.

    Raises:
        TeacherError: a value that no view could be made with.
    """

    input_size: tuple[int, int]
    """Height and width, pixels."""
    mean: tuple[float, float, float]
    """Of red, green, blue, for values in [0, 1]."""
    std: tuple[float, float, float]
    """As mean; positive."""
    interpolation: str
    """Pillow's resizing filter, a name from ``labelstore.images.INTERPOLATIONS``."""

    def __post_init__(self) -> None:
        for name, length in (("input_size", 2), ("mean", 3), ("std", 3)):
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            if len(value) != length or not all(math.isfinite(number) for number in value):
                raise TeacherError(f"{name} is {value}, expected {length} numbers.")
        if min(self.input_size) < 1 or min(self.std) <= 0:
            raise TeacherError(
                f"input_size is {self.input_size} and std {self.std}, expected positive numbers."
            )
        if self.interpolation not in INTERPOLATIONS:
            raise TeacherError(
                f"interpolation is {self.interpolation!r}, expected one of "
                f"{', '.join(INTERPOLATIONS)}: the same view must be resized the same way again."
            )


class Teacher:
    """A network, its preprocessing, and where and how it runs. Made by ``load_teacher``."""

    def __init__(
        self,
        spec: str,
        module: torch.nn.Module,
        preprocessing: Preprocessing,
        *,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        checkpoint: str = "none",
        untrained: bool = False,
        device: str = "cpu",
        precision: str = "fp32",
    ) -> None:
        import torch

        self.spec = spec
        self.preprocessing = preprocessing
        self.device = device
        self.precision = precision
        self._checkpoint = checkpoint
        self._untrained = untrained
        self._weights_digest = _weights_digest(module.state_dict())
        self.module = module.eval().requires_grad_(False).to(device)
        if device != "mps":
            self.module = self.module.to(memory_format=torch.channels_last)
        shape = (preprocessing.input_size[0], preprocessing.input_size[1], 3)
        self.num_classes = num_classes or 0
        if not num_classes:
            self.num_classes = int(self.logits(np.zeros((1, *shape), dtype=np.uint8)).shape[1])
        self.class_names = None if class_names is None else tuple(class_names)
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise TeacherError(
                f"{spec} has {self.num_classes} classes and {len(self.class_names)} class names: "
                "give one name a class, in order."
            )

    def describe(self) -> dict[str, Any]:
        """What the manifest says of the teacher, ready for JSON."""
        return {
            "spec": self.spec,
            "checkpoint": self._checkpoint,
            "untrained": self._untrained,
            "weights_digest": self._weights_digest,
            "input_size": list(self.preprocessing.input_size),
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
            "interpolation": self.preprocessing.interpolation,
            "device": self.device,
            "precision": self.precision,
        }

    def logits(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Logits of views.

        Args:
            pixels: (B, H, W, 3) uint8 at the input size.

        Returns:
            (B, num_classes) float32 on the teacher's device.

        Raises:
            TeacherError: the network's output has another shape or is not finite.
        """
        import torch

        batch = torch.from_numpy(np.ascontiguousarray(pixels))
        if self.device == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        types = {"bf16": torch.bfloat16, "fp16": torch.float16}
        with torch.inference_mode():
            values = normalize(batch, self.preprocessing.mean, self.preprocessing.std)
            if self.precision == "fp32":
                output = self.module(values)
            else:
                with torch.autocast(self.device, dtype=types[self.precision]):
                    output = self.module(values)
        expected = (len(pixels), self.num_classes) if self.num_classes else (len(pixels), "classes")
        if not isinstance(output, torch.Tensor) or output.ndim != 2:
            found = tuple(getattr(output, "shape", ())) or type(output).__name__
            raise TeacherError(f"{self.spec} gave {found}, expected logits of shape {expected}.")
        if len(output) != len(pixels) or self.num_classes not in (0, output.shape[1]):
            raise TeacherError(
                f"{self.spec} gave {tuple(output.shape)}, expected logits of shape {expected}."
            )
        output = output.float()
        if not bool(torch.isfinite(output).all()):
            raise TeacherError(
                f"{self.spec} gave logits that are not finite in {self.precision}: use --precision "
                "fp32 or bf16, and check the weights."
            )
        return output


def normalize(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 (..., 3, H, W) -> float32 ``(pixels / 255 - mean) / std``, a channel each.

    Teachers and training data sets both use it, so their pixels are the same to the last bit.
    """
    import torch

    shape = (3, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32, device=pixels.device).reshape(shape)
    spread = torch.tensor(std, dtype=torch.float32, device=pixels.device).reshape(shape)
    return pixels.to(torch.float32).div_(255).sub_(centre).div_(spread)


def top_k(
    logits: torch.Tensor, k: int, temperature: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The k largest probabilities of ``softmax(logits / temperature)``.

    Args:
        logits: (B, C) float32.
        k: 1..C.
        temperature: positive.

    Returns:
        (B, k) int64 class ids and (B, k) float32 probabilities, largest first; among equals the
        smaller class id first.
    """
    import torch

    if not 1 <= k <= logits.shape[1]:
        raise UsageError(f"k is {k}, expected 1 to {logits.shape[1]}: correct --top-k.")
    if not temperature > 0:
        raise UsageError(f"temperature is {temperature}, expected a positive number.")
    with torch.inference_mode():
        probs = torch.softmax(logits.float() / temperature, dim=-1)
        values, indices = torch.topk(probs, k, dim=-1, sorted=True)
        classes = indices.cpu().numpy()
        found = values.cpu().numpy()
    # topk promises no order among equals.
    order = np.lexsort((classes, -found), axis=-1)
    return np.take_along_axis(classes, order, -1), np.take_along_axis(found, order, -1)


def load_teacher(
    spec: str,
    *,
    checkpoint: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    size: int | None = None,
) -> Teacher:
    """Build a teacher.

    Args:
        spec: ``timm:NAME``, or ``python:package.module:factory``, whose factory returns the module
            and its preprocessing (a ``Preprocessing``, or a mapping with its fields and, by choice,
            ``class_names``).
        checkpoint: for timm: a safetensors or torch file, ``none`` for untrained weights, or None
            for timm's pretrained weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``fp32``, ``bf16`` or ``fp16``, of the forward.
        size: side of the input in pixels, in place of the teacher's own.

    Raises:
        UsageError, TeacherError, NotFoundError: each says what to change.
    """
    kind, _, name = spec.partition(":")
    if kind not in ("timm", "python") or not name:
        raise UsageError(
            f"teacher is {spec!r}, expected timm:NAME or python:package.module:factory."
        )
    device = _device(device)
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}.")
    if precision == "fp16" and device == "cpu":
        raise UsageError("precision fp16 was asked for on a CPU: use bf16 or fp32.")
    if kind == "python":
        if checkpoint is not None:
            raise UsageError(
                f"--checkpoint was given with {spec!r}: a factory loads its own weights, leave the "
                "option out."
            )
        return _from_factory(spec, name, device, precision, size)
    return _from_timm(spec, name, checkpoint, device, precision, size)


def create_model(name: str, pretrained: bool = False, size: int | None = None) -> torch.nn.Module:
    """A network of timm; TeacherError when there is none of that name or size."""
    import timm
    import torch

    if not timm.is_model(name):
        close = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f" (did you mean {', '.join(close)}?)" if close else ""
        raise TeacherError(
            f"timm {timm.__version__} has no network {name!r}{hint}: see timm.list_models()."
        )
    options: dict[str, Any] = {}
    config = timm.get_pretrained_cfg(name)
    if size is not None and config is not None and config.fixed_input_size:
        options["img_size"] = size
    try:
        # Untrained weights are the same in every run, and no other draw of the process moves.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: torch.nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except (TypeError, AssertionError) as error:
        raise TeacherError(
            f"timm's {name} cannot be built for {size} x {size} pixels ({error}): leave --size out."
        ) from error
    return model


def imagenet_class_names() -> tuple[str, ...]:
    """The 1,000 names (WordNet ids) of ImageNet-1K's classes, in the order that teachers use."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def load_state_dict_in_order(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load weights that match a model's one for one in order, though not by name.

    ``num_batches_tracked`` is left out on both sides. Raises TeacherError, before anything is
    loaded, when the counts or any shape differ.
    """
    own = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    given = {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}
    if len(own) != len(given):
        raise TeacherError(
            f"the weights hold {len(given)} tensors, expected {len(own)}: they are not this "
            "network's."
        )
    state = model.state_dict()
    for mine, (theirs, tensor) in zip(own, given.items(), strict=True):
        if state[mine].shape != tensor.shape:
            raise TeacherError(
                f"the tensor {theirs!r} has shape {tuple(tensor.shape)}, expected "
                f"{tuple(state[mine].shape)} of {mine!r}: the weights are not this network's."
            )
    state.update(zip(own, given.values(), strict=True))
    model.load_state_dict(state)


def _from_timm(
    spec: str, name: str, checkpoint: str | None, device: str, precision: str, size: int | None
) -> Teacher:
    from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config

    if checkpoint is None:
        with _patience():
            try:
                model = create_model(name, pretrained=True, size=size)
            except (OSError, RuntimeError, ValueError) as error:
                raise TeacherError(
                    f"timm's pretrained weights of {name!r} cannot be had "
                    f"({_line(error)}): {_NO_WEIGHTS}."
                ) from error
    else:
        model = create_model(name, size=size)
        if checkpoint != "none":
            _load_checkpoint(model, name, Path(checkpoint))
    config = resolve_data_config({}, model=model)
    side = (size, size) if size else tuple(config["input_size"][1:])
    subset = infer_imagenet_subset(model)
    return Teacher(
        spec,
        model,
        Preprocessing(
            input_size=side,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=config["interpolation"],
        ),
        num_classes=int(model.num_classes),  # type: ignore[arg-type]
        class_names=ImageNetInfo(subset).label_names() if subset else None,
        checkpoint="pretrained" if checkpoint is None else Path(checkpoint).name,
        untrained=checkpoint == "none",
        device=device,
        precision=precision,
    )


def _load_checkpoint(model: torch.nn.Module, name: str, file: Path) -> None:
    """Load a file's weights strictly, without running any code from it."""
    import pickle

    from safetensors import SafetensorError
    from timm.models import load_state_dict

    if not file.is_file():
        raise NotFoundError(f"there is no checkpoint {file}: check --checkpoint.")
    try:
        tensors = load_state_dict(str(file), weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise TeacherError(
            f"the checkpoint {file} cannot be read ({_line(error)}): expected a safetensors file, "
            "or a torch file of tensors alone."
        ) from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise TeacherError(
            f"the checkpoint {file} holds no state dict ({_line(error)}): save the network's "
            "state_dict()."
        ) from error
    own = model.state_dict()
    missing = [key for key in own if key not in tensors]
    unexpected = [key for key in tensors if key not in own]
    other = [key for key in own if key in tensors and own[key].shape != tensors[key].shape]
    if missing or unexpected or other:
        parts = [
            f"{len(keys)} {what} (first {keys[0]!r})"
            for what, keys in (
                ("tensors missing", missing),
                ("unexpected", unexpected),
                ("of another shape", other),
            )
            if keys
        ]
        raise TeacherError(
            f"the checkpoint {file} does not fit timm's {name}: {', '.join(parts)}; give the file "
            "of this very network."
        )
    model.load_state_dict(tensors)


def _from_factory(spec: str, name: str, device: str, precision: str, size: int | None) -> Teacher:
    import torch

    module_name, _, attribute = name.partition(":")
    if not attribute:
        raise UsageError(f"teacher is {spec!r}, expected python:package.module:factory.")
    with _working_folder_on_path():
        try:
            factory = getattr(importlib.import_module(module_name), attribute)
        except ImportError as error:
            raise TeacherError(
                f"{spec}: {module_name} cannot be imported ({error}): run from the folder that "
                "holds it, or install it."
            ) from error
        except AttributeError as error:
            raise TeacherError(f"{spec}: {module_name} has no {attribute!r}.") from error
        made = factory()
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module)):
        raise TeacherError(
            f"{spec} returned {type(made).__name__}, expected (torch.nn.Module, preprocessing)."
        )
    model, given = made
    names = None
    if not isinstance(given, Preprocessing):
        try:
            fields = dict(given)
            names = fields.pop("class_names", None)
            given = Preprocessing(**fields)
        except (TypeError, ValueError) as error:
            raise TeacherError(
                f"{spec} returned a preprocessing that does not fit ({error}): expected a mapping "
                "with input_size, mean, std, interpolation and, by choice, class_names."
            ) from error
    if size is not None:
        given = Preprocessing((size, size), given.mean, given.std, given.interpolation)
    return Teacher(
        spec,
        model,
        given,
        class_names=names,
        checkpoint="factory",
        device=device,
        precision=precision,
    )


def _device(device: str) -> str:
    import torch

    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(name for name, present in there.items() if present)
    if device not in there:
        raise UsageError(f"device is {device!r}, expected auto, cpu, cuda or mps.")
    if not there[device]:
        raise UsageError(f"device {device} was asked for and torch sees none: use --device auto.")
    return device


def _weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """xxh3_128 over each tensor's name, type, shape and bytes, in order."""
    import torch

    digest = xxhash.xxh3_128()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
    return str(digest.hexdigest())


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Let the weights' library fail at once, not after minutes of retries, without a network."""
    from huggingface_hub import constants

    host = urllib.parse.urlparse(constants.ENDPOINT).hostname
    before = constants.HF_HUB_OFFLINE
    try:
        if not urllib.request.getproxies():
            socket.getaddrinfo(host, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _working_folder_on_path() -> Iterator[None]:
    """Import as ``python -m`` would: from the working folder too."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path.remove(str(Path.cwd()))


def _line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160].rstrip(".")
