"""Checkpoints of timm's networks: files of tensors, out of what training scripts put around them.

Nothing but tensors and plain values is ever unpickled.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from labelstore.errors import NotFoundError, TeacherError, one_line
from labelstore.teachers.outputs import NETWORK_ERRORS
from labelstore.teachers.weights import COUNTER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

__all__ = ["classes_of", "read_checkpoint", "without_prefix"]


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint file, under the names that they have there.

    Args:
        path: a safetensors or torch file: a state dict, bare or under ``state_dict_ema``,
            ``model_ema``, ``state_dict`` or ``model``, of which the first is taken.

    Raises:
        NotFoundError: there is no such file.
        TeacherError: it cannot be read, or holds something else.
    """
    import timm
    import torch
    from safetensors import SafetensorError

    if not path.is_file():
        raise NotFoundError(
            f"there is no checkpoint file {path}: give the path of a safetensors or torch file, or "
            "none for untrained weights."
        )
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


def without_prefix(
    tensors: Mapping[str, torch.Tensor], names: Sequence[str], origin: str
) -> dict[str, torch.Tensor]:
    """A network's tensors out of a checkpoint in which it is a part of something.

    Lightning's modules, DistributedDataParallel and torch.compile put their own name before those
    of the network; what stands beside it, as a loss with weights, is left out.

    Args:
        tensors: name -> tensor. names: of the network's own tensors. origin: what errors call the
            checkpoint.

    Returns:
        the tensors whose names begin with the one prefix under which all of ``names`` are there,
        without it; all as they are where there is no such prefix, or none is needed.

    Raises:
        TeacherError: there are several such prefixes.
    """
    needed = [name for name in names if not name.endswith(COUNTER)]
    if not needed or all(name in tensors for name in needed):
        return dict(tensors)
    ends = [name for name in tensors if name.endswith(f".{needed[0]}")]
    prefixes = [
        prefix
        for prefix in (name.removesuffix(needed[0]) for name in ends)
        if all(prefix + name in tensors for name in needed)
    ]
    if len(prefixes) > 1:
        raise TeacherError(
            f"{origin} holds the network {len(prefixes)} times, under "
            f"{' and '.join(map(repr, sorted(prefixes)))}: save the state dict of one alone."
        )
    if not prefixes:
        return dict(tensors)
    start = prefixes[0]
    return {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }


def classes_of(tensors: Mapping[str, torch.Tensor], classifiers: Sequence[str]) -> int | None:
    """How many classes a checkpoint's classifier has; None where it has none.

    Args:
        tensors: name -> tensor. classifiers: names of the modules that classify.
    """
    for classifier in classifiers:
        for part in ("bias", "weight"):
            tensor = tensors.get(f"{classifier}.{part}")
            if tensor is not None and tensor.ndim:
                return int(tensor.shape[0])
    return None
