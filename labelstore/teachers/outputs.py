"""What a network's outputs tell of it: logits, something else, or noise.

All that is known of a network is what it gives for a few crops. What stands here are signs that
logits do not have, so that a network is refused by them and never taken for one that it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import TeacherError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt
    import torch

__all__ = [
    "NETWORK_ERRORS",
    "REARRANGED",
    "REPEATED",
    "TRIED_CROPS",
    "check_logits",
    "difference",
    "fault_of",
    "measured_classes",
    "misshaped",
    "not_deterministic",
    "tried_crops",
]

NETWORK_ERRORS = (AssertionError, LookupError, RuntimeError, TypeError, ValueError)
"""What networks raise on options or an input size that they cannot take; they agree on no class."""

TRIED_CROPS = 4
"""Crops by which a network is tried out."""

REPEATED = {"fp32": 2e-3, "fp16": 5e-3, "bf16": 2e-2}
"""How much logits of the same batch may differ, by precision, as a share of their size: GPUs add in
an order that may change, and a network may round to half precision on its own."""

REARRANGED = {"fp32": 5e-3, "fp16": 2e-2, "bf16": 1e-1}
"""The same for a crop in batches of other sizes, for which libraries choose other algorithms."""

_MANY_CLASSES = 16
"""From so many on logits of a classifier have both signs: softmax does not see their mean, and
training leaves it where it began."""


def fault_of(outputs: torch.Tensor) -> str | None:
    """Why outputs are no logits, as the end of a sentence with the mend; None if they may be.

    Args:
        outputs: (B, C) of a few different crops.
    """
    import torch

    classes = outputs.shape[1]
    if classes == 1:
        return (
            "one output for a crop, expected logits of at least 2 classes: of a network that tells "
            "two classes by one logit, return torch.cat([torch.zeros_like(z), z], 1)"
        )
    rows = outputs[torch.isfinite(outputs).all(dim=1)].double()
    if not len(rows):
        return None
    if bool((rows >= 0).all()):
        if bool(((rows.sum(dim=1) - 1).abs() < 0.02).all()):
            return (
                "probabilities (none is negative and they sum to 1), expected logits: return what "
                "goes into softmax, or the logarithm of the probabilities"
            )
        if classes >= _MANY_CLASSES and bool(((rows > 0) & (rows <= 1)).all()):
            return (
                "numbers between 0 and 1, as sigmoid makes them, expected logits: return what goes "
                "into the sigmoid, of a network that was trained to name one class of each image"
            )
        if classes >= _MANY_CLASSES and 0.1 < float((rows == 0).double().mean()) < 1:
            return (
                "numbers of which none is negative and many are 0, as features after a ReLU are, "
                "expected logits: return the classifier's outputs"
            )
    if bool(((rows.norm(dim=1) - 1).abs() < 0.01).all()):
        return (
            "vectors of length 1, as embeddings are, expected logits: return the classifier's "
            "outputs, for CLIP the scaled products with the embeddings of the classes' texts"
        )
    return None


def difference(left: torch.Tensor, right: torch.Tensor) -> float:
    """The largest difference of two answers to the same crops, as a share of the logits' size.

    What softmax does not see, the mean of a row, does not count; rows that are not finite in
    either are left out.

    Args:
        left, right: (B, C).
    """
    import torch

    both = torch.isfinite(left).all(dim=1) & torch.isfinite(right).all(dim=1)
    if not bool(both.any()):
        return 0.0
    left, right = left[both].double(), right[both].double()
    # Where logits hardly differ among each other, what is left of them is rounding.
    rounding = 1e-2 * float(left.abs().max())
    left, right = (rows - rows.mean(dim=1, keepdim=True) for rows in (left, right))
    size = max(float(left.abs().max()), float(right.abs().max()), rounding)
    return float((left - right).abs().max()) / size if size else 0.0


def check_logits(spec: str, outputs: torch.Tensor) -> None:
    """Refuse what ``fault_of`` has something to say of.

    Args:
        spec: what the error calls the network. outputs: (B, C).

    Raises:
        TeacherError: they are no logits.
    """
    fault = fault_of(outputs)
    if fault is not None:
        raise TeacherError(f"{spec} returned {fault}.")


def measured_classes(
    spec: str, size: tuple[int, int], forward: Callable[[torch.Tensor], Any]
) -> int:
    """How many classes a network tells apart: what it returns for one black crop has so many.

    Args:
        spec: what errors call the network. size: (height, width) of its input.
        forward: the network's outputs for (B, H, W, 3) uint8.

    Raises:
        TeacherError: it fails, or returns no (1, C) tensor.
    """
    import torch

    height, width = size
    try:
        outputs = forward(torch.zeros((1, height, width, 3), dtype=torch.uint8))
    except NETWORK_ERRORS as error:
        raise TeacherError(
            f"{spec} fails on one image of {height} x {width} pixels "
            f"({one_line(error)}): give an input size that it takes."
        ) from error
    shape = tuple(getattr(outputs, "shape", ()))
    classes = int(shape[-1]) if shape else 1
    if not isinstance(outputs, torch.Tensor) or shape != (1, classes):
        raise misshaped(spec, outputs, (1, classes))
    return classes


def misshaped(spec: str, outputs: Any, shape: tuple[int, int]) -> TeacherError:
    """The error of outputs that are no tensor of a shape.

    Args:
        spec: what the error calls the network. outputs: what it returned.
        shape: (B, C) that was expected.
    """
    import torch

    returned = getattr(outputs, "shape", type(outputs).__name__)
    returned = tuple(returned) if isinstance(returned, torch.Size) else returned
    return TeacherError(
        f"{spec} returned {returned}, expected a tensor of logits of shape {shape}: give a "
        "network that returns one row of logits for each image."
    )


def not_deterministic(
    spec: str, apart: float, tolerances: Mapping[str, float], precision: str, where: str
) -> TeacherError:
    """The error of a network that does not say the same of the same crops.

    Args:
        spec: what the error calls the network.
        apart: what ``difference`` says of two answers. tolerances: of it, by precision.
        precision: of the network. where: what was another, as "another batch".
    """
    return TeacherError(
        f"{spec} is not deterministic: in {where} logits of the same crops differ by "
        f"{apart:.1%} of their size, expected {tolerances[precision]:.2%} at most at "
        f"precision {precision}: switch off what it does in training (dropout, stochastic depth, "
        "BatchNorm by the batch), or allow its noise.",
        arguments=("allow_nondeterministic",),
    )


def tried_crops(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(TRIED_CROPS, H, W, 3) uint8: noise, and patches of colour; the same on every call."""
    generator = np.random.Generator(np.random.Philox(key=0))
    half = TRIED_CROPS // 2
    noise = generator.integers(0, 256, (half, *size, 3), dtype=np.uint8)
    colours = generator.integers(0, 256, (TRIED_CROPS - half, 4, 4, 3), dtype=np.uint8)
    rows, columns = (np.arange(side) * 4 // side for side in size)
    return np.concatenate([noise, colours[:, rows[:, None], columns]])
