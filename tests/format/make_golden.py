"""Make golden stores that are not there. Version 1 is frozen: those that are there never change.

python -m tests.format.make_golden
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import labelstore
from labelstore.format.manifest import FORMAT_VERSION
from tests.support.stores import make_planned, written

GOLDEN = Path(__file__).parent / "golden" / "v1"
SIZE = {"images": 5, "views": 3, "classes": 12, "block_images": 3}

TEACHER = {
    "spec": "timm:resnet50",
    "checkpoint": "pretrained",
    "untrained": False,
    "weights_digest": "0123456789abcdef0123456789abcdef",
    "input_size": [224, 192],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bicubic",
    "device": "cpu",
    "precision": "bf16",
}
EVERY_FIELD = {
    "class_names": tuple(f"class {number}" for number in range(12)),
    "temperature": 2.0,
    "label_type": "smoothing",
    "probe": ({"key": "c/001.jpg", "view": 2, "digest": "fedcba9876543210fedcba9876543210"},),
    "producer": {"labelstore": "0.1.0", "Pillow": "12.0.0"},
}
ORIGIN = {
    "operation": "merge",
    "stores": ["00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"],
    "settings": {"weights": [0.75, 0.25], "ferkd": None, "tail": None, "teachers": [TEACHER]},
}
"""What a manifest may say beyond what the other stores' say."""


BOXES = {
    "law": None,
    "boxes": np.arange(5 * 3 * 4).reshape(5, 3, 4),
    "flips": np.arange(15).reshape(5, 3) % 2 == 1,
}

STORES = {
    "prior-ratio16.zarr": (make_planned, {"k": 3, "prior_size": 4, "group_views": 2}),
    "prior-ratio16.parquet": (make_planned, {"k": 3, "prior_size": 4, "group_views": 2}),
    "top-p-ratio32.zarr": (
        make_planned,
        {"k": 4, "prior_size": 4, "quantizer": "ratio32", "top_p": 0.7},
    ),
    "top-p-u8.parquet": (
        make_planned,
        {"k": 4, "prior_size": 4, "quantizer": "u8", "top_p": 0.7},
    ),
    "every-field.zarr": (make_planned, {"k": 2, **EVERY_FIELD, "teacher": TEACHER}),
    "every-field.parquet": (make_planned, {"k": 2, **EVERY_FIELD, "origin": ORIGIN}),
    "law-u8.zarr": (written, {"k": 3, "quantizer": "u8"}),
    "law-u16.zarr": (written, {"k": 3, "quantizer": "u16"}),
    "law-fp32.zarr": (written, {"k": 3, "quantizer": "fp32"}),
    "one-class.zarr": (written, {"k": 1, "quantizer": "ratio16"}),
    "one-class.parquet": (written, {"k": 1, "quantizer": "ratio16"}),
    "boxes-fp16.zarr": (written, {"k": 2, "quantizer": "fp16", **BOXES}),
    "boxes-fp32.parquet": (written, {"k": 2, "quantizer": "fp32", **BOXES}),
}


def main() -> None:
    if FORMAT_VERSION != 1:
        raise SystemExit("these are the golden stores of format version 1")
    file = GOLDEN / "known.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    for name, (make, settings) in STORES.items():
        path = GOLDEN / name
        if name in known:
            continue
        make(path, **SIZE, **settings)
        (path / ".lock").unlink()
        topk = labelstore.open(path).read(np.arange(5)[:, None], np.arange(3))
        known[name] = {"classes": topk.indices.tolist(), "probs": topk.probs.tolist()}
        print(f"made {name}")
    file.write_text(json.dumps(dict(sorted(known.items()))) + "\n")


if __name__ == "__main__":
    main()
