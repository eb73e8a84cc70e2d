"""Inference: pixels to a teacher's logits."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.devices import checked_device, exact_float32
from labelstore.errors import TeacherError, UsageError
from labelstore.images import INTERPOLATIONS
from labelstore.weights import weights_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import torch

__all__ = [
    "NETWORK_ERRORS",
    "Preprocessing",
    "Teacher",
    "normalize",
    "one_line",
]

_PROBED_BATCHES = (8, 32)
"""Sizes of the forwards by which ``Teacher.fitting_batch`` measures memory."""

NETWORK_ERRORS = (AssertionError, LookupError, RuntimeError, TypeError, ValueError)
"""What networks raise on options or an input size that they cannot take; they agree on no class."""


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of its input.

    Raises:
        UsageError: a value is out of its range.
    """

    input_size: tuple[int, int]
    """(height, width) in pixels, at least 1 each."""
    mean: tuple[float, float, float]
    """Of red, green and blue, where 1 is full brightness; subtracted."""
    std: tuple[float, float, float]
    """Of the same; positive; divided by."""
    interpolation: str
    """The resize filter, one of `labelstore.images.INTERPOLATIONS`."""
    crop_share: float = 0.875
    """Share of an image's side that the central crop of a plain evaluation has, above 0 to 1;
    views do not depend on it."""

    def __post_init__(self) -> None:
        try:
            size = tuple(int(side) for side in self.input_size)
            mean = tuple(float(value) for value in self.mean)
            std = tuple(float(value) for value in self.std)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"the preprocessing {self} is unusable ({error}), expected numbers: two for "
                "input_size and three each for mean and std."
            ) from error
        if len(size) != 2 or min(size) < 1:
            raise UsageError(f"input_size is {size}, expected (height, width) of at least 1 each.")
        if len(mean) != 3 or not all(np.isfinite(mean)):
            raise UsageError(f"mean is {mean}, expected three finite numbers, one for a channel.")
        if len(std) != 3 or not all(0 < value < float("inf") for value in std):
            raise UsageError(f"std is {std}, expected three positive numbers, one for a channel.")
        if not 0 < self.crop_share <= 1:
            raise UsageError(f"crop_share is {self.crop_share}, expected above 0, up to 1.")
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"interpolation is {self.interpolation!r}, expected one of "
                f"{', '.join(INTERPOLATIONS)}."
            )
        object.__setattr__(self, "input_size", size)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)


def normalize(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """``(pixels / 255 - mean) / std``, for the teacher and for training alike.

    Args:
        pixels: (..., 3, H, W) uint8, in any memory format, which is kept.
        mean: three numbers on the scale 0..1; std: three positive numbers.

    Returns:
        (..., 3, H, W) float32 on the same device, the same bits on every device.

    Raises:
        UsageError: another dtype or number of channels.
    """
    import torch

    if pixels.dtype != torch.uint8 or pixels.ndim < 3 or pixels.shape[-3] != 3:
        raise UsageError(
            f"the pixels are {pixels.dtype} of shape {tuple(pixels.shape)}, expected uint8 of "
            "shape (..., 3, H, W): normalize them before any other conversion."
        )
    make = _constants if torch.compiler.is_compiling() else _kept_constants
    full, centre, spread = make(tuple(mean), tuple(std), pixels.device)
    return pixels.to(torch.float32).div_(full).sub_(centre).div_(spread)


def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, ...]:
    """255, mean and standard deviation, each (3, 1, 1) float32."""
    import torch

    # Tensors, not numbers: CUDA would multiply by a rounded 1/255 instead of dividing.
    constants = torch.tensor([[255.0] * 3, list(mean), list(std)], device=device)
    return constants.view(3, 3, 1, 1).unbind()


@functools.lru_cache(maxsize=64)
def _kept_constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, ...]:
    """The same, made once: copying them to a device waits for all that it still has to do."""
    import torch

    with torch.inference_mode(False):
        return _constants(mean, std, device)


class Teacher:
    """A network in evaluation mode, with what it expects and what it is called.

    Attributes:
        spec: what it was loaded from.
        num_classes: its number of classes C.
        class_names: C names in order, or None when unknown.
        preprocessing: what it expects of its input.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``; place: the same as a ``torch.device``, with the
            number of the GPU that was the current one.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.

    Raises:
        TeacherError: the network fails on one image, returns no (1, C) logits or none that are
            finite, or there are not C class names.
        UsageError: the device is not available, or fp16 is asked of the CPU.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        preprocessing: Preprocessing,
        *,
        spec: str,
        class_names: Sequence[str] | None = None,
        checkpoint: str = "none",
        untrained: bool = False,
        device: str = "auto",
        precision: str = "fp32",
    ) -> None:
        import torch

        self.spec = spec
        self.preprocessing = preprocessing
        self.device, self.precision = checked_device(device, precision)
        # In other threads "cuda" may mean another GPU.
        self.place = torch.device(self.device)
        if self.device == "cuda":
            self.place = torch.device("cuda", torch.cuda.current_device())
        self.class_names = None if class_names is None else tuple(class_names)
        self._checkpoint = checkpoint
        self._untrained = untrained
        self._batch_size: int | None = None
        self._digest = weights_digest(model.state_dict())
        self._dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        # Crops arrive with their channels last; convolutions on the CPU and on CUDA gain by it.
        layout = torch.preserve_format if self.device == "mps" else torch.channels_last
        model = model.requires_grad_(False).eval().to(self.place)
        self._model = model.to(memory_format=layout)
        self.num_classes = self._measured_classes()
        if not all(isinstance(name, str) for name in self.class_names or ()):
            raise TeacherError(f"{spec} has class names that are no text: give them as strings.")
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise TeacherError(
                f"{spec} has {len(self.class_names)} class names and {self.num_classes} classes: "
                "give one name for each class, or none."
            )

    def __repr__(self) -> str:
        return f"Teacher({self.spec!r}, device={self.device!r}, precision={self.precision!r})"

    @property
    def batch_size(self) -> int | None:
        """Views of each forward of a compiled network; None of any other."""
        return self._batch_size

    def describe(self) -> dict[str, Any]:
        """What a store's manifest says of the teacher: plain JSON values."""
        return {
            "spec": self.spec,
            "checkpoint": self._checkpoint,
            "untrained": self._untrained,
            "weights_digest": self._digest,
            "input_size": list(self.preprocessing.input_size),
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
            "interpolation": self.preprocessing.interpolation,
            "device": self.device,
            "precision": self.precision,
            **({} if self._batch_size is None else {"compiled": True}),
        }

    def logits(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        """The network's raw outputs.

        Args:
            pixels: (B, H, W, 3) uint8, with the height and width of ``preprocessing.input_size``.

        Returns:
            (B, C) float32 on the teacher's device, finite.

        Raises:
            UsageError: the pixels have another dtype or shape.
            TeacherError: the outputs have another shape or are not finite, or memory ran out.
        """
        import torch

        expected = (*self.preprocessing.input_size, 3)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise UsageError(
                f"the pixels are {pixels.dtype} of shape {pixels.shape}, expected uint8 of shape "
                f"(B, {', '.join(map(str, expected))}): cut them to the teacher's input size."
            )
        logits = self.outputs(torch.from_numpy(np.require(pixels, requirements=["C", "W"])))
        if not bool(torch.isfinite(logits).all()):
            raise self.not_finite()
        return logits

    def outputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """As ``logits``, without waiting for the device and without a look at the values.

        Args:
            pixels: (B, H, W, 3) uint8 on the host, best in pinned memory, or on the device.
        """
        import torch

        count, padded = len(pixels), self._padded(pixels)
        try:
            outputs = self._forward(padded)
        except torch.cuda.OutOfMemoryError as error:
            raise TeacherError(
                f"{self.spec} ran out of memory on {count} crops at once: lower --batch-size."
            ) from error
        shape = (len(padded), self.num_classes)
        if not isinstance(outputs, torch.Tensor) or outputs.shape != shape:
            raise self._misshaped(outputs, shape)
        return outputs[:count].float()

    def network(self, values: torch.Tensor) -> Any:
        """The network's outputs for normalized values (B, 3, H, W) float32 on its device."""
        import torch

        exact = self.device == "cuda" and self.precision == "fp32"
        with (
            torch.inference_mode(),
            exact_float32() if exact else contextlib.nullcontext(),
            torch.autocast(self.device, dtype=self._dtype, enabled=self._dtype is not None),
        ):
            return self._model(values)

    def not_finite(self) -> TeacherError:
        """The error of logits that are not finite."""
        mend = "check its weights" if self.precision == "fp32" else "use --precision fp32"
        return TeacherError(
            f"{self.spec} returned logits that are not finite at precision {self.precision}: "
            f"{mend}."
        )

    def fitting_batch(self, limit: int = 512) -> int:
        """How many views fit into the GPU's free memory in one forward: a power of two.

        Measured by two forwards; 16 where the teacher does not run on a GPU.

        Args:
            limit: of the answer; beyond it no network gains speed.
        """
        import torch

        if self.device != "cuda":
            return 16
        small, large = _PROBED_BATCHES
        with torch.cuda.device(self.place):
            few = self._peak(small)
            try:
                many = self._peak(large)
            except TeacherError:
                return small
            finally:
                torch.cuda.empty_cache()
            return batch_that_fits(torch.cuda.mem_get_info()[0], few, many, limit)

    def _peak(self, count: int) -> int:
        """Bytes of the GPU that a forward of so many views takes at most."""
        import torch

        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        self.outputs(torch.zeros((count, *self.preprocessing.input_size, 3), dtype=torch.uint8))
        return int(torch.cuda.max_memory_allocated() - start)

    def compile(self, batch_size: int) -> None:
        """Compile the network with torch.compile, for batches of one size.

        Smaller batches are filled up with black crops, so that nothing is compiled twice. What a
        compiled network says may differ in the last bits: the manifest tells that it was.
        """
        import torch

        self._batch_size = batch_size
        self._model = torch.compile(self._model)  # type: ignore[assignment]

    def _padded(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        missing = 0 if self._batch_size is None else self._batch_size - len(pixels)
        if missing <= 0:
            return pixels
        return torch.cat([pixels, pixels.new_zeros((missing, *pixels.shape[1:]))])

    def _forward(self, pixels: torch.Tensor) -> Any:
        # From pageable memory the copy waits; from pinned memory it does not. (On MPS one that does
        # not wait may read memory that was given back meanwhile.)
        batch = pixels.to(self.place, non_blocking=self.device == "cuda").permute(0, 3, 1, 2)
        return self.network(normalize(batch, self.preprocessing.mean, self.preprocessing.std))

    def _misshaped(self, outputs: Any, shape: tuple[int, int]) -> TeacherError:
        import torch

        met = getattr(outputs, "shape", type(outputs).__name__)
        met = tuple(met) if isinstance(met, torch.Size) else met
        return TeacherError(
            f"{self.spec} returned {met}, expected a tensor of logits of shape {shape}: give a "
            "network that returns one row of logits for each image."
        )

    def _measured_classes(self) -> int:
        import torch

        height, width = self.preprocessing.input_size
        try:
            outputs = self._forward(torch.zeros((1, height, width, 3), dtype=torch.uint8))
        except NETWORK_ERRORS as error:
            raise TeacherError(
                f"{self.spec} fails on one image of {height} x {width} pixels "
                f"({one_line(error)}): give an input size that it takes."
            ) from error
        shape: Sequence[int] = getattr(outputs, "shape", ())
        classes = int(shape[-1]) if shape else 1
        if not isinstance(outputs, torch.Tensor) or tuple(shape) != (1, classes):
            raise self._misshaped(outputs, (1, classes))
        if not bool(torch.isfinite(outputs).all()):
            raise self.not_finite()
        return classes


def batch_that_fits(free: int, small: int, large: int, limit: int) -> int:
    """The largest power of two, 1 to ``limit``, whose forward takes 7 tenths of what is free.

    Args:
        free: bytes; small, large: bytes that forwards of ``_PROBED_BATCHES`` views took at most.
    """
    per_view = (large - small) / (_PROBED_BATCHES[1] - _PROBED_BATCHES[0])
    if per_view <= 0:  # Another algorithm, with less room of its own.
        per_view = max(large / _PROBED_BATCHES[1], 1.0)
    fixed = max(small - per_view * _PROBED_BATCHES[0], 0.0)
    fitting = max((0.7 * free - fixed) / per_view, 1.0)
    return int(min(2 ** int(np.log2(fitting)), limit))


def one_line(error: BaseException) -> str:
    """The message of another library's error, fit to stand inside a sentence; never empty."""
    text = " ".join(str(error).split())
    return (text if len(text) <= 200 else f"{text[:197]}...").rstrip(".") or type(error).__name__
