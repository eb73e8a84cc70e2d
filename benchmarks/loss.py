"""The sparse soft cross-entropy against making labels dense first, forward and backward.

python -m benchmarks.loss
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.common import alternate, ratio, summary, synthetic_labels, write_result
from labelstore.labels import TopK
from labelstore.torch import TorchSoftLabels, soft_cross_entropy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--classes", type=int, nargs="+", default=[1000, 10_000, 21_841])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = [measure(options, num_classes) for num_classes in options.classes]
    setting = {"batch_size": options.batch_size, "k": options.top_k, "device": "cpu"}
    write_result("loss", {"setting": setting, "rows": rows}, options.out)


def measure(options: argparse.Namespace, num_classes: int) -> dict[str, Any]:
    """One number of classes: both losses, forward and backward, in turns."""
    ids, probs = synthetic_labels(options.batch_size, 1, options.top_k, num_classes)
    soft = TopK(ids[:, 0], probs[:, 0], num_classes).recover("uniform")
    target = TorchSoftLabels.from_numpy(soft)
    logits = torch.randn(options.batch_size, num_classes, requires_grad=True)

    def sparse() -> torch.Tensor:
        logits.grad = None
        loss = soft_cross_entropy(logits, target)
        loss.backward()
        return loss.detach()

    def dense() -> torch.Tensor:
        logits.grad = None
        label = target.base[:, None].expand(-1, num_classes).clone()
        label.scatter_add_(1, target.indices, target.weights)
        loss = F.cross_entropy(logits, label)
        loss.backward()
        return loss.detach()

    first, second = sparse(), dense()
    if not np.isclose(first.item(), second.item(), rtol=1e-4):
        raise SystemExit(f"the losses disagree: {first.item()} and {second.item()}")
    seconds = alternate({"sparse": sparse, "dense": dense}, options.rounds, warmup=3)
    return {
        "classes": num_classes,
        "sparse": summary(seconds["sparse"]),
        "densify_and_dense": summary(seconds["dense"]),
        "dense_over_sparse": round(ratio(seconds["dense"], seconds["sparse"]), 3),
        "bytes_of_targets": {
            "sparse": sum(t.nbytes for t in (target.base, target.indices, target.weights)),
            "dense": options.batch_size * num_classes * 4,
        },
    }


if __name__ == "__main__":
    main()
