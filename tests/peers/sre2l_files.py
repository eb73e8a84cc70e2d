"""Folders as SRe2L's and LPLD's relabelling scripts write them.

Written from the description of the files; photos are visited by the same public calls: a DataLoader
with a RandomSampler of its own generator.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler
from torchvision.transforms import RandomResizedCrop

from tests.peers.photo_folders import keys_of, sizes_of


@dataclass
class Written:
    """What went into a folder: by (epoch, key) the crop in pixels, whether mirrored, the logits."""

    box: dict = field(default_factory=dict)
    flip: dict = field(default_factory=dict)
    logits: dict = field(default_factory=dict)


class Numbers(torch.utils.data.Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return index


def write(
    folder,
    photos,
    *,
    epochs=3,
    batch_size=8,
    classes=5,
    half=False,
    mix=None,
    cutout=False,
    drop_last=False,
    stop_after=None,
    order_file=False,
    right_share=1.0,
):
    """Write a folder; its labels mostly say the photo's own class, as a teacher's do."""
    keys = keys_of(photos)
    sizes = sizes_of(photos, keys)
    class_of = {name: number for number, name in enumerate(sorted({k.split("/")[0] for k in keys}))}
    rng, written, visited = np.random.default_rng(0), Written(), {}
    generator = torch.Generator()
    generator.manual_seed(42)
    dataset = Numbers(len(keys))
    sampler = RandomSampler(dataset, generator=generator)
    loader = DataLoader(dataset, batch_size=batch_size, sampler=sampler, drop_last=drop_last)
    saved = 0
    for epoch in range(epochs):
        path = folder / f"epoch_{epoch}"
        path.mkdir(parents=True)
        for number, batch in enumerate(loader):
            indices = batch.tolist()
            visited.setdefault(str(epoch), []).extend(indices)
            coords, flips, rows = [], [], []
            for index in indices:
                height, width = (int(side) for side in sizes[index])
                image = torch.empty(3, height, width)
                i, j, h, w = RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
                coords.append(torch.FloatTensor((i / height, j / width, h / height, w / width)))
                flips.append(bool(rng.random() < 0.5))
                z = rng.normal(0, 1.5, classes)
                if rng.random() < right_share:
                    z[class_of[keys[index].split("/")[0]]] += 9
                rows.append(z)
                place = (epoch, keys[index])
                written.box[place], written.flip[place] = (i, j, h, w), flips[-1]
            logits = torch.tensor(np.array(rows), dtype=torch.float32)
            if half:
                logits = logits.half()
            for index, row in zip(indices, logits, strict=True):
                written.logits[epoch, keys[index]] = row.double().numpy()
            partners, lam, box = None, None, None
            if mix:
                partners, lam = torch.randperm(len(indices)), float(rng.beta(1.0, 1.0))
            if mix == "cutmix":
                box = [np.clip(corner, 0, 224) for corner in rng.integers(-20, 240, 4)]
            status = torch.tensor(flips)
            if cutout:
                status = torch.tensor(rng.random((len(indices), 7)), dtype=torch.float32)
            content = [torch.stack(coords), status, partners, lam, box, logits]
            torch.save(content, path / f"batch_{number}.tar")
            saved += 1
            if saved == stop_after:
                break
        if saved == stop_after:
            break
    if order_file:
        (folder / "sampler_indices_epoch.json").write_text(json.dumps(visited))
    return written


def first_number(count):
    """The photo of the first label of epoch 0."""
    generator = torch.Generator()
    generator.manual_seed(42)
    return next(iter(RandomSampler(Numbers(count), generator=generator)))
