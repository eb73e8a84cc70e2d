"""What a batch's labels cost between reading and the loss: recover, calibrate, mix.

1,024 views (256 images x 4) of stored labels become FerKD-calibrated, SelfMix-mixed tensors, on one
core, and the same is done with dense labels, as FKD's code makes them. ``peer`` is dense. With a
GPU, recovering and calibrating there (``labelstore.torch.recover``) is timed too, the copy
of the stored labels included.

    python -m benchmarks.batch
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import labelstore
from benchmarks.support.measuring import alternate, ratio, summary, synthetic_labels, write_result
from labelstore.labels.prior import ImagePrior
from labelstore.labels.top_k import TopK
from labelstore.torch import SelfMix, StoredLabels, TorchSoftLabels, recover
from labelstore.training.mixing import mixed_labels
from labelstore.training.recovery import Recovery

IMAGES, VIEWS, CLASSES = 256, 4, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(k, size, options.rounds) for k, size in ((4, 64), (5, 0), (10, 0), (10, 64))]
    setting = {"views": IMAGES * VIEWS, "images": IMAGES, "classes": CLASSES}
    write_result("batch", {"setting": setting, "rows": rows}, options.out)


def measure(k: int, size: int, rounds: int) -> dict[str, Any]:
    """Seconds of labelstore's way, step by step, and of the dense one."""
    topk, targets, images = stored(k, size)
    rule, mix = labelstore.FerKD(), SelfMix("mixup", alpha=0.8)
    plan = mix.plans(images, (224, 224), 0)[0]
    labels = rule.apply(topk, targets).labels

    def sparse() -> TorchSoftLabels:
        done = rule.apply(topk, targets)
        drawn = mix.plans(images, (224, 224), 1)[0]
        mixed = mixed_labels(drawn, done.labels)
        return TorchSoftLabels.from_numpy(mixed, target=targets, action=done.action, image=images)

    tasks = {
        "labelstore": sparse,
        "dense": lambda: dense(topk, targets, plan.partner, plan.weight),
        "recover": topk.recover,
        "recover and calibrate": lambda: rule.apply(topk, targets),
        "draw the mixing": lambda: mix.plans(images, (224, 224), 1),
        "mix": lambda: mixed_labels(plan, labels),
    }
    rows = StoredLabels.from_numpy(topk, targets, images, images)
    recovery = Recovery(None, "top-k", rule, None)
    tasks["recover and calibrate, torch"] = lambda: recover(rows, recovery)
    if torch.cuda.is_available():
        tasks["recover and calibrate, cuda"] = lambda: on_gpu(rows, recovery)
    seconds = alternate(tasks, rounds, warmup=3)
    return {
        "k": k,
        "prior_size": size,
        "dense_over_labelstore": round(ratio(seconds["dense"], seconds["labelstore"]), 2),
        **{name: summary(values) for name, values in seconds.items()},
    }


def on_gpu(rows: StoredLabels, recovery: Recovery) -> TorchSoftLabels:
    """Labels recovered on the GPU, once it is done."""
    done = recover(rows.to("cuda"), recovery)
    torch.cuda.synchronize()
    return done


def stored(
    k: int, size: int, images: int = IMAGES, views: int = VIEWS
) -> tuple[TopK, np.ndarray, np.ndarray]:
    """Labels as a store's read gives them, ground truth and image numbers of every view."""
    ids, probs = synthetic_labels(images, views, max(k, 5), CLASSES)
    numbers = np.repeat(np.arange(images), views)
    targets = np.repeat(ids[:, 0, 0], views)
    prior = None
    if size:
        rng = np.random.default_rng(1)
        others = np.argsort(rng.random((images, CLASSES)), axis=1)
        mean = np.full((images, CLASSES), 1e-6)
        np.add.at(mean, (np.arange(images)[:, None, None], ids), probs / views)
        np.add.at(mean, (np.arange(images)[:, None], others[:, :size]), 0.2 / size)
        lists = np.argsort(-mean, axis=1, kind="stable")[:, :size].astype(np.int32)
        values = np.take_along_axis(mean / mean.sum(1, keepdims=True), lists, 1)
        power = np.full(images, 0.7, dtype=np.float32)
        prior = ImagePrior(lists, values.astype(np.float32), power)[numbers]
    flat = (ids[..., :k].reshape(-1, k), probs[..., :k].reshape(-1, k))
    return TopK(*flat, CLASSES, prior), targets, numbers


def dense(topk: TopK, targets: np.ndarray, partner: np.ndarray, weight: np.ndarray) -> torch.Tensor:
    """The same with (B, C) arrays, the residual spread evenly."""
    probs = torch.from_numpy(topk.probs)
    rest = (1 - probs.sum(1, keepdim=True)) / (CLASSES - topk.k)
    labels = rest.expand(-1, CLASSES).clone()
    labels.scatter_(1, torch.from_numpy(topk.indices).long(), probs)
    truth = torch.full((len(probs), CLASSES), 0.1 / (CLASSES - 1))
    truth.scatter_(1, torch.from_numpy(targets).long()[:, None], 0.9)
    top = probs[:, 0]
    labels = torch.where(((top > 0.15) & (top <= 0.3))[:, None], truth, labels)
    share = torch.from_numpy(weight).float()[:, None]
    return share * labels + (1 - share) * labels[torch.from_numpy(partner)]


if __name__ == "__main__":
    main()
