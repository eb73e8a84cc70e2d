"""Weights of networks: fitting tensors to a model, their digest, and whether a hub answers."""

from __future__ import annotations

import contextlib
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import xxhash

from labelstore.errors import TeacherError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

__all__ = [
    "COUNTER",
    "channels_last",
    "check_hub",
    "load_state_dict_by_name",
    "load_state_dict_in_order",
    "module_digest",
    "settled",
    "weights_digest",
]

# A count of training steps, which evaluation does not use and old or converted files lack.
COUNTER = "num_batches_tracked"


def weights_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """xxh3_128, 32 hexadecimal digits, over name, dtype, shape and bytes of each tensor in order.

    Entries that are no tensors are passed over. Device and memory format do not count.
    """
    import torch

    hasher = xxhash.xxh3_128()
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            continue
        data = tensor.detach().cpu().contiguous()
        hasher.update(f"{name}\0{data.dtype}\0{tuple(data.shape)}\0".encode())
        hasher.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return str(hasher.hexdigest())


def module_digest(module: torch.nn.Module) -> str:
    """``weights_digest`` of a module's state dict, or of a frozen TorchScript module's constants,
    which are its weights."""
    import torch

    tensors = module.state_dict()
    if not tensors and isinstance(module, torch.jit.ScriptModule):
        graph: Any = module.inlined_graph  # Held, for its nodes do not hold it.
        nodes = graph.findAllNodes("prim::Constant")
        constants = [node for node in nodes if node.hasAttribute("value")]
        values = [node.t("value") for node in constants if node.kindOf("value") == "t"]
        tensors = {str(number): value for number, value in enumerate(values)}
    return weights_digest(tensors)


def load_state_dict_by_name(
    model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], origin: str
) -> None:
    """Copy tensors into a model that has exactly tensors of these names and shapes.

    Args:
        model: changed in place, and only when all tensors fit.
        tensors: name -> tensor; ``num_batches_tracked`` counters may be absent.
        origin: what the error calls the place they come from.

    Raises:
        TeacherError: tensors are missing, unexpected or of another shape.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in tensors and not name.endswith(COUNTER)]
    unexpected = [name for name in tensors if name not in own]
    reshaped = [name for name in tensors if name in own and tensors[name].shape != own[name].shape]
    if missing or unexpected or reshaped:
        faults = []
        if missing:
            faults.append(f"{len(missing)} missing (first {missing[0]})")
        if unexpected:
            faults.append(f"{len(unexpected)} unexpected (first {unexpected[0]})")
        if reshaped:
            name = reshaped[0]
            faults.append(
                f"{len(reshaped)} of another shape (first {name}: {tuple(tensors[name].shape)}, "
                f"expected {tuple(own[name].shape)})"
            )
        raise TeacherError(
            f"the weights in {origin} do not fit {type(model).__name__}: of its {len(own)} tensors "
            f"{', '.join(faults)}: name the network that these weights belong to."
        )
    # Not strict: what strictness checks was checked above, but for the counters.
    model.load_state_dict(dict(tensors), strict=False)


def load_state_dict_in_order(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors into a model that has the same ones in the same order under other names.

    ``num_batches_tracked`` counters are left out on both sides.

    Args:
        model: changed in place, and only when all tensors fit.
        tensors: any names -> tensors, in the order of ``model.state_dict()``.

    Raises:
        TeacherError: their number or any shape differs.
    """
    own = {name: t for name, t in model.state_dict().items() if not name.endswith(COUNTER)}
    stored = {name: t for name, t in tensors.items() if not name.endswith(COUNTER)}
    if len(own) != len(stored):
        raise TeacherError(
            f"there are {len(stored)} tensors, expected the {len(own)} of {type(model).__name__}: "
            "name the network that these weights belong to."
        )
    for (own_name, expected), (name, tensor) in zip(own.items(), stored.items(), strict=True):
        if expected.shape != tensor.shape:
            raise TeacherError(
                f"the tensor {name} has shape {tuple(tensor.shape)}, expected "
                f"{tuple(expected.shape)} for {own_name} in its place: name the network that these "
                "weights belong to."
            )
    model.load_state_dict(dict(zip(own, stored.values(), strict=True)), strict=False)


def check_hub(repository: str, timeout: float = 10.0) -> None:
    """Return at once unless weights have to be fetched from a model hub that does not answer.

    The hub's own client retries for most of a minute before it says so.

    Args:
        repository: the hub's ``owner/name``; nothing is asked when its weights are in the cache.
        timeout: seconds to wait for an answer.

    Raises:
        OSError: no answer came.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    for file in ("model.safetensors", "pytorch_model.bin"):
        if isinstance(try_to_load_from_cache(repository.partition("@")[0], file), str):
            return
    if constants.HF_HUB_OFFLINE:
        return
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=timeout).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except urllib.error.URLError as error:
        # The hub's client brings certificates of its own, so it may fare better.
        if not isinstance(error.reason, ssl.SSLError):
            raise


def settled(model: torch.nn.Module) -> torch.nn.Module:
    """The module in evaluation mode, without gradients, its weights in float32."""
    import torch

    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.dtype in (torch.float16, torch.bfloat16, torch.float64) for tensor in tensors):
        model = model.float()
    # Exported programs stay in the mode in which they were exported; what that is shows when they
    # are tried out.
    with contextlib.suppress(NotImplementedError):
        model = model.eval()
    if not isinstance(model, torch.jit.ScriptModule):
        model = model.requires_grad_(False)
    return model


def channels_last(model: torch.nn.Module) -> torch.nn.Module:
    """The module with its convolutions' weights laid out for images whose channels come last."""
    import torch

    tensors = [*model.parameters(), *model.buffers()]
    if all(tensor.ndim != 5 for tensor in tensors):
        return model.to(memory_format=torch.channels_last)
    # Those of three dimensions, of networks that take videos too, cannot be laid out so.
    for tensor in tensors:
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model
