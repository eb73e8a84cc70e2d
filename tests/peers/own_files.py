"""Label files as FKD and TinyViT themselves save them, and what they recover from these.

Nothing of labelstore is used. Files are of the few public calls that the projects' scripts make.
Recovery is in float64 what their code does in float32, clamped where it would be negative.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

CLASSES = 1000


def photos(folder, count, classes=3, seed=0, sizes=(40, 140)):
    """Photos in class folders; (height, width) of each by its key, in the order of the keys."""
    rng = np.random.default_rng(seed)
    shapes = {}
    for number in range(count):
        height, width = rng.integers(*sizes, 2).tolist()
        key = f"n{number % classes:04}/im_{number}.JPEG"
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / key)
        shapes[key] = (height, width)
    return dict(sorted(shapes.items()))


def crops(rng, height, width, views):
    """(views, 4) integer boxes inside a photo: top, left, height, width."""
    sides = np.array([height, width])
    size = rng.integers(1, sides + 1, (views, 2))
    start = (rng.random((views, 2)) * (sides - size + 1)).astype(int)
    return np.concatenate([start, size], axis=1)


def softmaxes(generator, views, spread=4.0):
    return torch.softmax(spread * torch.randn(views, CLASSES, generator=generator), dim=1)


def fkd_labels(output, label_type):
    """As ``label_quantization`` of FKD's generate_soft_label.py has them."""
    if label_type == "hard":
        return torch.argmax(output, dim=1)
    if label_type == "smoothing":
        value, index = torch.max(output, dim=1)
        return torch.stack([index, value], dim=1)
    value, index = torch.topk(output, k=int(label_type.rpartition("k")[2]), dim=1)
    return torch.stack([index, value], dim=1)


def save_fkd(folder, shapes, views, label_type="marginal_smoothing_k5", fp16=False, seed=1, **how):
    """Write a file for each photo; boxes and flips and float64 recovered labels by key."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    truth = {}
    for key, (height, width) in shapes.items():
        boxes = crops(rng, height, width, views)
        coords = torch.tensor(boxes / [height, width, height, width], dtype=torch.float32)
        flips = torch.rand(views, generator=generator) < 0.5
        quantized = fkd_labels(softmaxes(generator, views, **how), label_type)
        path = folder / "imagenet" / "train" / key.split(".")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        if fp16:
            state = [np.float16(coords.numpy()), flips.numpy(), np.float16(quantized)]
        else:
            state = [coords.numpy(), flips.numpy(), quantized]
        torch.save(state, f"{path}.tar")
        pixels = np.asarray(state[0]).astype(np.float64) * [height, width, height, width]
        corners = np.rint(np.concatenate([pixels[:, :2], pixels[:, :2] + pixels[:, 2:]], axis=1))
        corners[:, 2:] = np.minimum(corners[:, 2:], [height, width])
        cut = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        truth[key] = (cut.astype(int), flips.numpy(), recovered(np.asarray(state[2]), label_type))
        if not fp16:
            np.testing.assert_array_equal(cut, boxes)
    return truth


def recovered(label, label_type):
    """``Recover_soft_label`` of FKD's utils_FKD.py, in float64."""
    views = len(label)
    if label_type == "hard":
        return np.eye(CLASSES)[label.astype(int)]
    if label_type == "smoothing":
        label = label[:, :, None]
    index, value = label[:, 0].astype(int), label[:, 1].astype(np.float64)
    minor = (1 - value.sum(axis=1, keepdims=True)) / (CLASSES - index.shape[1])
    full = np.repeat(minor, CLASSES, axis=1)
    full[np.arange(views)[:, None], index] = value
    return clamped(full)


def clamped(full):
    """What half precision makes negative is 0, and the rest sums to 1."""
    over = full.min(axis=-1, keepdims=True) < 0
    positive = np.maximum(full, 0)
    return np.where(over, positive / positive.sum(axis=-1, keepdims=True), full)


def save_tinyvit(folder, keys, epochs, k=10, ranks=2, seed=2, **how):
    """Write two files a process and epoch; seeds and float64 recovered labels by key."""
    generator = torch.Generator().manual_seed(seed)
    truth = {key: [] for key in keys}
    for epoch in range(epochs):
        place = folder / f"logits_top{k}_epoch{epoch}"
        place.mkdir(parents=True)
        order = torch.randperm(len(keys), generator=generator).tolist()
        parts = [order[rank::ranks] for rank in range(ranks)]
        # Padding: the last process has a key that the first has, too, of another view.
        parts[-1].append(parts[0][0])
        seen = set()
        for rank, part in enumerate(parts):
            values, names = b"", ""
            for number in part:
                value, index = torch.topk(softmaxes(generator, 1, **how)[0], k)
                value = value.to(torch.float16).numpy()
                index = index.to(torch.int16).numpy()
                drawn = np.int32(torch.randint(2**31 - 1, (1,), generator=generator).item())
                values += drawn.tobytes() + index.tobytes() + value.tobytes()
                names += f"{keys[number]}\n"
                if number not in seen:
                    seen.add(number)
                    label = np.stack([index.astype(np.float64), value.astype(np.float64)])
                    full = recovered(label[None], "marginal_smoothing")[0]
                    truth[keys[number]].append((int(drawn), full))
            (place / f"rank{rank}-values.bin").write_bytes(values)
            (place / f"rank{rank}-keys.txt").write_text(names)
    return truth
