"""Soft labels as tensors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
import torch

from labelstore.errors import LabelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from _typeshed import DataclassInstance

    from labelstore.labels.soft_labels import SoftLabels

__all__ = ["TorchSoftLabels", "copied", "join_tensors", "map_tensors"]

Record = TypeVar("Record", bound="DataclassInstance")


@dataclass(frozen=True)
class TorchSoftLabels:
    """The torch twin of ``labelstore.SoftLabels``: B labels as ``base + sparse``.

    Raises:
        LabelError: the tensors' shapes do not fit each other.
    """

    base: torch.Tensor
    """(B,) float32: the probability of every class before the sparse part is added."""
    indices: torch.Tensor
    """(B, K) int64 class ids, 0..num_classes-1; a class may stand more than once."""
    weights: torch.Tensor
    """(B, K) float32: what is added to each; negative where a class is below the base."""
    num_classes: int
    weight: torch.Tensor | None = None
    """(B,) float32: what each row's loss is multiplied by."""
    target: torch.Tensor | None = None
    """(B,) int64 ground-truth class ids, -1 where unknown."""
    action: torch.Tensor | None = None
    """(B,) uint8: what FerKD's rule does with each view, the values of ``labelstore.Action``."""
    image: torch.Tensor | None = None
    """(B,) int64: the image's number in the store."""
    view: torch.Tensor | None = None
    """(B,) int64: the view's number."""

    def __post_init__(self) -> None:
        rows = self.base.shape
        wide = self.indices.shape == self.weights.shape and self.indices.shape[:1] == rows
        if len(rows) != 1 or self.indices.ndim != 2 or not wide:
            raise LabelError(
                f"soft labels have base {tuple(rows)}, indices {tuple(self.indices.shape)} and "
                f"weights {tuple(self.weights.shape)}, expected (B,), (B, K) and (B, K)."
            )
        for name in _OPTIONAL:
            value = getattr(self, name)
            if value is not None and value.shape != rows:
                raise LabelError(
                    f"{name} has shape {tuple(value.shape)}, expected {tuple(rows)}: give one "
                    "value for each label."
                )

    @classmethod
    def from_numpy(
        cls,
        labels: SoftLabels,
        *,
        weight: npt.ArrayLike | None = None,
        target: npt.ArrayLike | None = None,
        action: npt.ArrayLike | None = None,
        image: npt.ArrayLike | None = None,
        view: npt.ArrayLike | None = None,
    ) -> TorchSoftLabels:
        """Labels of one leading axis (B,) as tensors; the other arguments are (B,) or None."""
        optional = {
            "weight": weight,
            "target": target,
            "action": action,
            "image": image,
            "view": view,
        }
        return cls(
            base=torch.as_tensor(labels.base),
            indices=torch.as_tensor(labels.indices, dtype=torch.int64),
            weights=torch.as_tensor(labels.weights),
            num_classes=labels.num_classes,
            **{
                name: torch.as_tensor(value, dtype=_OPTIONAL[name])
                for name, value in optional.items()
                if value is not None
            },
        )

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, rows: Any) -> TorchSoftLabels:
        """Rows by a slice or by an index tensor."""
        return self._map(lambda tensor: tensor[rows])

    @property
    def shape(self) -> torch.Size:
        """(B, num_classes), that of the distributions."""
        return torch.Size((len(self), self.num_classes))

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    @property
    def dtype(self) -> torch.dtype:
        """That of the probabilities, float32."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """Where the labels are."""
        return self.base.device

    def size(self, dim: int | None = None) -> torch.Size | int:
        """``shape``, or one number of it, as of a tensor."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """``ndim``, as of a tensor."""
        return self.ndim

    def long(self) -> NoReturn:
        """No class ids: timm's Mixup and losses of hard labels ask for them.

        Raises:
            UsageError: always.
        """
        raise _not_a_tensor("class ids")

    def float(self) -> NoReturn:
        """No dense tensor: timm's Mixup of several labels an image asks for it.

        Raises:
            UsageError: always.
        """
        raise _not_a_tensor("a dense tensor")

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TorchSoftLabels:
        """The same labels on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TorchSoftLabels:
        """The same labels in page-locked memory; ``DataLoader(pin_memory=True)`` calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def dense(self) -> torch.Tensor:
        """(B, num_classes) float32 probabilities; for looking at, the loss does not need them."""
        wide = self.base[:, None].repeat(1, self.num_classes)
        # Sums of rounded terms may end a unit in the last place below zero.
        return wide.scatter_add_(1, self.indices, self.weights).clamp_(min=0)

    @classmethod
    def cat(cls, parts: Sequence[TorchSoftLabels]) -> TorchSoftLabels:
        """Labels of one kind one after the other; at least one part.

        Raises:
            LabelError: they have not the same number of classes, or not all have what one has.
        """
        kinds = [
            (part.num_classes, *(name for name in _OPTIONAL if getattr(part, name) is not None))
            for part in parts
        ]
        other = next((kind for kind in kinds if kind != kinds[0]), None)
        if other is not None:
            raise LabelError(
                f"labels of {_kind(kinds[0])} and labels of {_kind(other)} were to be joined: "
                "they must be of one kind; collate samples of one data set at a time."
            )
        return join_tensors(parts)

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> TorchSoftLabels:
        return map_tensors(self, function)


def _not_a_tensor(attribute: str) -> UsageError:
    return UsageError(
        f"soft labels were asked for {attribute}, as timm's Mixup and losses of tensors do, "
        "expected what takes soft labels: mix with labelstore.torch.MixUp, CutMix or SelfMix in "
        "place of timm's Mixup (leave its mixup and cutmix at 0), and take a loss of "
        "labelstore.torch; target.target has the class ids of the ground truth, target.dense() the "
        "probabilities."
    )


def _kind(kind: tuple[Any, ...]) -> str:
    classes, *names = kind
    return f"{classes} classes with {', '.join(names) or 'nothing else'}"


_OPTIONAL = {
    "weight": torch.float32,
    "target": torch.int64,
    "action": torch.uint8,
    "image": torch.int64,
    "view": torch.int64,
}


def copied(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Values on a device, without waiting for what a GPU still has to do."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def map_tensors(record: Record, function: Callable[[torch.Tensor], torch.Tensor]) -> Record:
    """A data class with a function of each of its tensors."""
    tensors = {name: function(value) for name, value in _tensors(record)}
    return dataclasses.replace(record, **tensors)


def join_tensors(records: Sequence[Record]) -> Record:
    """Data classes as one, with their tensors one after the other; the rest is the first one's."""
    tensors = {
        name: torch.cat([getattr(record, name) for record in records])
        for name, _ in _tensors(records[0])
    }
    return dataclasses.replace(records[0], **tensors)


def _tensors(record: Any) -> list[tuple[str, torch.Tensor]]:
    """The fields of a data class that are tensors."""
    values = [(field.name, getattr(record, field.name)) for field in dataclasses.fields(record)]
    return [(name, value) for name, value in values if isinstance(value, torch.Tensor)]
