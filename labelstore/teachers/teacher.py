"""A teacher: a network that is tried out once, and turns pixels into logits."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import TeacherError, UsageError, one_line
from labelstore.images.preprocessing import Preprocessing, normalize
from labelstore.teachers.device_memory import is_out_of_memory, measured_batch_size
from labelstore.teachers.devices import checked_device, exact_float32, recorded
from labelstore.teachers.info import TeacherInfo
from labelstore.teachers.outputs import (
    NETWORK_ERRORS,
    REARRANGED,
    REPEATED,
    TRIED_CROPS,
    check_logits,
    difference,
    measured_classes,
    misshaped,
    not_deterministic,
    tried_crops,
)
from labelstore.teachers.weights import channels_last, module_digest, settled

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import torch

    from labelstore.teachers.devices import ForwardGraph

__all__ = ["Teacher"]

_NO_MEMORY = "ran out of memory on"


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
        deterministic: whether it says the same of the same crops, in whatever company.

    Args:
        model: any module, exported and scripted ones among them; weights of another precision are
            turned to float32, whose forward ``precision`` then decides.
        preprocessing, spec, class_names, device, precision: as above. checkpoint: where the weights
            are from; untrained: whether they are random. These are nine parameters, for they are
            what a manifest says of a teacher, one by one; the first two and ``spec`` are needed.
        allow_nondeterministic: take a network that does not say the same of the same crops.

    Raises:
        TeacherError: the network fails on a few images, returns no (B, C) logits or none that are
            finite, or there are not C class names; what it returns are probabilities or features;
            it is not deterministic.
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
        allow_nondeterministic: bool = False,
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
        self._graph: ForwardGraph | None = None
        self._at_most: int | None = None
        """Crops of one forward, since memory ran out on more."""
        self._notes: list[str] = []
        self._digest = module_digest(model)
        self._dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        # Crops arrive with their channels last; convolutions on the CPU and on CUDA gain by it.
        model = settled(model).to(self.place)
        self._model = model if self.device == "mps" else channels_last(model)
        self.num_classes = measured_classes(spec, preprocessing.input_size, self._forward)
        self._allow_nondeterministic = allow_nondeterministic
        self.deterministic = True
        self._try_out()
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

    @property
    def info(self) -> TeacherInfo:
        """What is known of it now without its network."""
        return TeacherInfo(
            self.spec,
            self.preprocessing,
            self.num_classes,
            self.class_names,
            self.device,
            self.describe(),
        )

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
            **({} if self.deterministic else {"deterministic": False}),
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
        tensor = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
        logits, lost = self.mended(tensor, self.outputs(tensor))
        if lost:
            raise self.not_finite()
        return logits

    def outputs(self, pixels: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        """As ``logits``, without waiting for the device and without a look at the values.

        Where memory runs out, fewer crops go through the network at once, from then on.

        Args:
            pixels: (B, H, W, 3) uint8 on the host, best in pinned memory, or on the device.
            exact: in fp32, whatever the teacher's precision.

        Raises:
            TeacherError: the outputs have another shape, or memory does not do for one crop.
        """
        import torch

        parts: list[torch.Tensor] = []
        start = 0
        while not parts or start < len(pixels):
            some = pixels[start : start + (self._at_most or len(pixels))]
            outputs = self._outputs_at_once(some, exact)
            if outputs is None:
                self._halve(max(len(some), self._batch_size or 1))
                continue
            parts.append(outputs)
            start += len(some)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def mended(
        self, pixels: torch.Tensor, outputs: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Outputs in which the rows that are not finite were made again in fp32.

        Args:
            pixels: (B, H, W, 3) uint8; outputs: (B, C) float32, what ``outputs`` says of them.

        Returns:
            (B, C) float32, and the rows that are not finite even so.
        """
        import torch

        with torch.inference_mode():
            bad = (~torch.isfinite(outputs).all(dim=1)).nonzero()[:, 0]
            if not len(bad):
                return outputs, ()
            if self.precision != "fp32":
                outputs = outputs.clone()
                outputs[bad] = self.outputs(pixels[bad.to(pixels.device)], exact=True)
                left = (~torch.isfinite(outputs).all(dim=1)).nonzero()[:, 0]
                if len(left) < len(bad):
                    self.note(
                        f"{self.spec}: logits of some crops were not finite at precision "
                        f"{self.precision} and were made again in fp32"
                    )
                bad = left
        return outputs, tuple(bad.tolist())

    def check_crops(self, pixels: torch.Tensor, outputs: torch.Tensor) -> None:
        """Compare what the network says of a batch's first crops with what it says of them alone.

        Args:
            pixels: (B, H, W, 3) uint8; outputs: (B, C) float32, what ``outputs`` says of them.

        Raises:
            TeacherError: they are no logits, or the network is not deterministic.
        """
        few = TRIED_CROPS
        check_logits(self.spec, outputs[:few])
        if self.deterministic:
            again = self.outputs(pixels[:few])
            self._check_same(outputs[:few], again, REARRANGED, "another batch")

    def note(self, text: str) -> None:
        """Keep something that the user is to be told of, once."""
        if text not in self._notes:
            self._notes.append(text)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user is to be told of, in order."""
        return tuple(self._notes)

    def network(self, values: torch.Tensor, *, exact: bool = False) -> Any:
        """The network's outputs for normalized values (B, 3, H, W) float32 on its device.

        Args:
            exact: in fp32, whatever the teacher's precision.
        """
        import torch

        dtype = None if exact else self._dtype
        with (
            torch.inference_mode(),
            exact_float32()
            if self.device == "cuda" and dtype is None
            else contextlib.nullcontext(),
            torch.autocast(self.device, dtype=dtype, enabled=dtype is not None),
        ):
            return self._model(values)

    def not_finite(self) -> TeacherError:
        """The error of logits that are not finite."""
        return TeacherError(
            f"{self.spec} returned logits that are not finite at precision fp32: check its weights."
        )

    def fitting_batch(self, limit: int = 512) -> int:
        """How many views fit into the GPU's free memory in one forward: a power of two.

        Measured by two forwards; 16 where the teacher does not run on a GPU.

        Args:
            limit: of the answer; beyond it no network gains speed.
        """
        if self.device != "cuda":
            return 16
        return measured_batch_size(self._forward, self.preprocessing.input_size, self.place, limit)

    def compile(self, batch_size: int) -> None:
        """Compile the network with torch.compile, for batches of one size.

        Smaller batches are filled up with black crops, so that nothing is compiled twice. What a
        compiled network says may differ in the last bits: the manifest tells that it was.
        """
        import torch

        self._batch_size = batch_size
        self._model = torch.compile(self._model)  # type: ignore[assignment]

    def record(self, batch_size: int) -> bool:
        """Let forwards of batches of one size be replayed as a CUDA graph; whether they are.

        What the network says is the same to the bit. Nothing on other devices, for a compiled
        network, and for any but timm's: what others do in a forward is not known, and a recording
        that fails can end the process later.
        """
        if self.device != "cuda" or not self.spec.startswith("timm:"):
            return False
        if self._batch_size is not None or self._at_most is not None:
            return False
        if self._graph is None or self._graph.batch_size != batch_size:
            self._graph = None
            size = self.preprocessing.input_size
            self._graph = recorded(self._forward, size, self.place, batch_size)
        return self._graph is not None

    def _padded(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        missing = 0 if self._batch_size is None else self._batch_size - len(pixels)
        if missing <= 0:
            return pixels
        return torch.cat([pixels, pixels.new_zeros((missing, *pixels.shape[1:]))])

    def _forward(self, pixels: torch.Tensor, exact: bool = False) -> Any:
        # From pageable memory the copy waits; from pinned memory it does not. (On MPS one that does
        # not wait may read memory that was given back meanwhile.)
        batch = pixels.to(self.place, non_blocking=self.device == "cuda").permute(0, 3, 1, 2)
        values = normalize(batch, self.preprocessing.mean, self.preprocessing.std)
        return self.network(values, exact=exact)

    def _outputs_at_once(self, pixels: torch.Tensor, exact: bool) -> torch.Tensor | None:
        """(B, C) float32; None where memory ran out."""
        import torch

        padded = self._padded(pixels)
        replays = self._graph is not None and len(pixels) == self._graph.batch_size and not exact
        try:
            if self._graph is not None and replays:
                outputs = self._graph(pixels)
            else:
                outputs = self._forward(padded, exact)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self._graph is None:
                return None
            # A recording keeps its memory for itself: without it there may be room.
            self._graph = None
            torch.cuda.empty_cache()
            return self._outputs_at_once(pixels, exact)
        shape = (len(padded), self.num_classes)
        if not isinstance(outputs, torch.Tensor) or outputs.shape != shape:
            raise misshaped(self.spec, outputs, shape)
        return outputs[: len(pixels)].float()

    def _halve(self, count: int) -> None:
        """Let half as many crops as ``count`` go through the network at once from now on."""
        import torch

        if self.device == "cuda":
            torch.cuda.empty_cache()
        if count < 2:
            raise TeacherError(
                f"{self.spec} runs out of memory on one crop: free memory on the device, or choose "
                "a smaller input size or network.",
                arguments=("size",),
            )
        self._at_most = count // 2
        self._graph = None
        if self._batch_size is not None:
            # What is compiled is for batches of one size, which is another one now.
            self._batch_size = self._at_most
        self._notes = [note for note in self._notes if _NO_MEMORY not in note]
        self.note(
            f"{self.spec} {_NO_MEMORY} {count} crops at once: {self._at_most} go through it at "
            f"once since then; a batch size of {self._at_most} does so from the beginning"
        )

    def _try_out(self) -> None:
        """Look whether logits come out, and the same ones each time, in whatever company."""
        import torch

        crops = torch.from_numpy(tried_crops(self.preprocessing.input_size))
        # Each of the first half has other company in the second batch.
        half = len(crops) // 2
        others = torch.cat([crops[:half], 255 - crops[half:]])
        try:
            with torch.inference_mode():
                once, again, rearranged = (self.outputs(p) for p in (crops, crops, others))
        except NETWORK_ERRORS as error:
            raise TeacherError(
                f"{self.spec} takes one image and fails on {len(crops)} at once "
                f"({one_line(error)}): give a network that takes batches of any size; torch.export "
                "makes it with dynamic_shapes."
            ) from error
        _, lost = self.mended(crops, once)
        if len(lost) == len(crops):
            raise self.not_finite()
        check_logits(self.spec, once)
        self._check_same(once, again, REPEATED, "another forward")
        self._check_same(once[:half], rearranged[:half], REPEATED, "another batch")

    def _check_same(
        self,
        outputs: torch.Tensor,
        others: torch.Tensor,
        tolerances: dict[str, float],
        where: str,
    ) -> None:
        """Refuse, or note, a network that says something else of the same crops."""
        apart = difference(outputs, others)
        if apart <= tolerances[self.precision]:
            return
        if not self._allow_nondeterministic:
            raise not_deterministic(self.spec, apart, tolerances, self.precision, where)
        self.deterministic = False
        self.note(f"{self.spec} is not deterministic: its labels are not the same twice")
