"""Folders as ml-dr's ``reinforce.py`` writes them, from the description of the files."""

from __future__ import annotations

import numpy as np
import torch

from tests.peers.photo_folders import keys_of, sizes_of

CROP_FLIP = {
    "uint8": {"enable": True},
    "random_resized_crop": {"enable": True, "size": 224},
    "random_horizontal_flip": {"enable": True, "p": 0.5},
    "to_tensor": {"enable": True},
    "normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
RAND_AUGMENT = {"rand_augment": {"enable": True, "p": 1.0}, "random_erase": {"p": 0.25}}
MIXING = {"mixup": {"alpha": 1.0, "p": 0.5}, "cutmix": {"alpha": 1.0, "p": 0.5}}


def sparsified(p, k):
    """A label as ml-dr keeps it: in no order."""
    ids = np.argpartition(p, -k)[-k:]
    return p[ids].tolist(), ids.tolist()


def write(folder, photos, *, views=4, k=5, classes=30, augment=None, compress=True, seed=0):
    """Write a folder; (image, view) -> own box, own flip, (probabilities, ids)."""
    augment = CROP_FLIP if augment is None else augment
    on = {name for name, settings in augment.items() if settings.get("enable", True)}
    rng, truth = np.random.default_rng(seed), {}
    keys = keys_of(photos)
    sizes = sizes_of(photos, keys)
    folder.mkdir(parents=True)

    def own(image):
        """Parameters of one image's view, by augmentation."""
        height, width = (int(side) for side in sizes[image])
        h, w = int(rng.integers(5, height + 1)), int(rng.integers(5, width + 1))
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        params = {"random_resized_crop": (top, left, h, w)}
        params["random_horizontal_flip"] = bool(rng.random() < 0.5)
        params["rand_augment"] = [(int(rng.integers(14)), float(rng.normal())) for _ in range(2)]
        params["random_erase"] = None if rng.random() < 0.75 else (3, 4, 50, 60)
        return params

    for image in range(len(keys)):
        samples = []
        for view in range(views):
            partner = int(rng.integers(len(keys)))
            mine, other = own(image), own(partner)
            lam = 0.3 if "mixup" in on and rng.random() < 0.5 else None
            cut = None
            if "cutmix" in on and rng.random() < 0.5:
                cut = (0.4, tuple(np.clip(rng.integers(-9, 99, 4), 0, 224)))
            params = pairs_of(mine, other, on, lam, cut, partner)
            if compress:
                params = compressed(params, on)
            p = np.exp(rng.normal(0, 2, classes)).astype(np.float32)
            p /= p.sum()
            pair = sparsified(p, k)
            samples.append({"params": params, "prob": pair})
            truth[image, view] = (
                mine["random_resized_crop"],
                mine["random_horizontal_flip"],
                pair,
            )
        torch.save((image, samples), folder / f"{image}.pth.tar", pickle_protocol=4)
    config = {
        "dataset": "imagenet",
        "teacher": {"timm_ensemble": True, "name": "one,another"},
        "seed": None,
        "num_classes": classes,
        "reinforce": {
            "num_samples": views,
            "topk": k,
            "compress": compress,
            "joblib": False,
            "image_augmentation": augment,
        },
    }
    torch.save(config, folder / "config.pth.tar")
    return truth


def pairs_of(mine, other, on, lam, cut, partner):
    """``params`` before they are compressed: the image's own, and the partner's."""
    params = {name: (mine[name], other[name]) for name in mine if name in on}
    params |= {name: ((), ()) for name in ("uint8", "to_tensor", "normalize") if name in on}
    if "mixup" in on:
        params["mixup"] = lam
    if "cutmix" in on:
        params["cutmix"] = cut
    if {"mixup", "cutmix"} & on:
        params["id2"] = partner
    return params


def compressed(params, on):
    """The same as a list."""
    mixing = {"mixup", "cutmix"} & on
    mixed = params.get("mixup") is not None or params.get("cutmix") is not None
    listed = [params["id2"] if mixed else None] if mixing else []
    for name in ("random_resized_crop", "random_horizontal_flip", "rand_augment", "random_erase"):
        if name in on:
            mine, other = params[name]
            listed.append([mine, other] if mixed else mine)
    if "mixup" in on:
        listed.append(params["mixup"])
    if "cutmix" in on:
        cut = params["cutmix"]
        listed.append(None if cut is None else [cut[0], *cut[1]])
    return listed


def smooth(pair, classes):
    """``densify(..., "smooth")`` in float64: what ml-dr trains on."""
    values, ids = np.asarray(pair[0], np.float64), pair[1]
    p = np.full(classes, (1 - values.sum()) / (classes - len(values)))
    p[ids] = values
    return p
