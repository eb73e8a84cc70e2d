"""ReLabel's label maps, and what the project's own calls make of them."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.ops import roi_align

from tests.peers.photo_folders import keys_of

CLASSES = 40


def write(folder, photos, side=15, k=5, classes=CLASSES):
    """A map for each photo: scores and ids as floats, one tensor."""
    rng, maps = np.random.default_rng(0), {}
    for key in keys_of(photos):
        ids = np.argsort(rng.random((classes, side, side)), axis=0)[:k]
        scores = np.sort(rng.normal(4, 3, (k, side, side)), axis=0)[::-1]
        maps[key] = torch.tensor(np.stack([scores, ids]), dtype=torch.float32)
        file = folder / f"{key.split('.')[0]}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(maps[key], file)
    return maps


def reference(label_map, boxes, height, width, dtype=torch.float64):
    """The project's recovery, call by call: maps made dense, crops as shares, RoIAlign, softmax."""
    scores, ids = label_map
    dense = torch.zeros(1, CLASSES, *scores.shape[1:], dtype=dtype)
    dense[0].scatter_(0, ids.long(), scores.to(dtype))
    coords = torch.tensor(
        [(i / height, j / width, h / height, w / width) for i, j, h, w in boxes],
        dtype=torch.float64,
    )
    coords[:, 2:] += coords[:, :2]
    rois = (coords.float() * dense.size(3) - 0.5).to(dtype)
    rois = torch.cat([torch.zeros(len(boxes), 1, dtype=dtype), rois], 1)
    pooled = roi_align(input=dense, boxes=rois, output_size=(1, 1))
    return torch.softmax(pooled[:, :, 0, 0], 1).double().numpy()
