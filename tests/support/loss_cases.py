"""Runs the loss's Triton kernels on saved cases; started with TRITON_INTERPRET=1, or on a GPU."""

from __future__ import annotations

import sys

import numpy as np
import torch

from labelstore.torch.losses import cross_entropy, triton_kernels

NAMES = ("logits", "base", "indices", "weights", "upstream")


def tensors(case, dtype, device="cpu"):
    logits, *labels, upstream = (torch.from_numpy(case[name]).to(device) for name in NAMES)
    return (logits.to(getattr(torch, dtype)), *labels, upstream)


def laid_out(logits, layout):
    """The same logits at other places in memory."""
    if layout == "columns":
        return logits.t().contiguous().t()
    if layout == "part of wider rows":
        wide = torch.full((len(logits), logits.shape[1] + 5), 1e9, dtype=logits.dtype)
        wide = wide.to(logits.device)
        wide[:, 2:-3] = logits
        return wide[:, 2:-3]
    return logits


def by_kernels(case, dtype, temperature, layout, device="cpu"):
    logits, base, indices, weights, upstream = tensors(case, dtype, device)
    logits = laid_out(logits, layout)
    losses, rows = triton_kernels.losses(logits, base, indices, weights, temperature)
    gradient = triton_kernels.gradient(logits, base, indices, weights, rows, upstream, temperature)
    return losses, gradient


def by_autograd(case, temperature):
    """The mean, whose gradient comes from above as one number for all rows."""
    cross_entropy._fusible = lambda logits: True
    logits, base, indices, weights, _ = tensors(case, "float32")
    logits.requires_grad_()
    losses = cross_entropy.SoftCrossEntropy.apply(logits, base, indices, weights, temperature)[0]
    losses.mean().backward()
    return losses.detach(), logits.grad


def main(source, result):
    found = {}
    for name, (case, dtype, temperature, layout) in np.load(source, allow_pickle=True)[()].items():
        if layout == "autograd":
            losses, gradient = by_autograd(case, temperature)
        else:
            losses, gradient = by_kernels(case, dtype, temperature, layout)
        assert losses.dtype == torch.float32
        assert gradient.dtype == getattr(torch, dtype)
        assert gradient.is_contiguous()
        found[name] = (losses.numpy(), gradient.double().numpy())
    found["works"] = triton_kernels.works(torch.device("cpu"))
    np.save(result, np.array(found, dtype=object))


if __name__ == "__main__":
    # The interpreter is NumPy's, which warns where a kernel drops 0 * inf.
    with np.errstate(invalid="ignore"):
        main(*sys.argv[1:])
