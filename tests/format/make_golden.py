"""Make golden stores that are not there. Versions are frozen: those that are there never change.

Those of the draft of version 2 were made as those of version 2 of their names are, when that was
the draft; they are read as long as there are any.

python -m tests.format.make_golden
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import numpy as np

import labelstore
from labelstore.format.versions import FORMAT_VERSION, VERSION_2
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys
from tests.support.stores import in_units, make_planned, written

GOLDEN = Path(__file__).parent / "golden" / "v1"
GOLDEN_2 = Path(__file__).parent / "golden" / "v2"
GOLDEN_UNITS = Path(__file__).parent / "golden" / "v2-units"
GOLDEN_DRAFT = Path(__file__).parent / "golden" / "draft-20001"
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


STAGES = (
    *("jitter-0.4-0.3-0.2-0.1-p0.8", "jitter-2", "gray-0.5", "rotate-15", "blur-0.5-0.1-3"),
    *("solarize-0.5-100", "erase-0.9", "ra-n3-m9", "ta-wide"),
)
# As of a store that has grown: its last images are nobody's partners.
FEW = hash_keys([f"c/{number:03}.jpg" for number in range(3)])

LAWS = {
    "stages.zarr": ViewLaw(seed=7, stages=STAGES),
    "stages-mixed.parquet": ViewLaw(seed=2**40 + 7, stages=(*STAGES, "mix-0.8-1-p0.8-r2")),
    "mixup.zarr": ViewLaw(seed=1, stages=("mixup-0.2-p0.7-r1",)),
    "cutmix-grown.zarr": ViewLaw(seed=2, stages=("gray-0.5", "cutmix-1-r2")).among(FEW),
}
STORES_2 = {name: (written, {"k": 2, "law": law}) for name, law in LAWS.items()}

LISTS = {"prior_size": 4, "group_views": 2}
STORES_UNITS = {
    # The last block has fewer units than the first, and the last group fewer views.
    "small.zarr": (make_planned, {"k": 1, **LISTS}, 2),
    "balanced.zarr": (make_planned, {"k": 4, "top_p": 0.95, **LISTS}, 2),
    "balanced-700.zarr": (make_planned, {"k": 4, "top_p": 0.95, "classes": 700, **LISTS}, 5),
    "fp16-lists.zarr": (make_planned, {"k": 3, "quantizer": "fp16", **LISTS}, 1),
    "fp16-boxes.zarr": (written, {"k": 3, "quantizer": "fp16", **BOXES}, 2),
    "fp16-700.zarr": (written, {"k": 3, "quantizer": "fp16", "classes": 700}, 2),
    "u8-stages.zarr": (written, {"k": 2, "quantizer": "u8", "law": LAWS["stages.zarr"]}, 2),
}
"""With the images of a unit."""


def views_of(store):
    """What is done to each view: for each image, for each view, for each stage, a list of names and
    values; and the partner, as (key, view), or None."""
    views = store.views(np.arange(5)[:, None], np.arange(3))
    return [[_view(store, views[image][view]) for view in range(3)] for image in range(5)]


def _view(store, view):
    steps = [
        [
            [stage.names[code], values.tolist()]
            for code, values in zip(stage.operation, stage.values, strict=True)
            if code
        ]
        for stage in view.stages
    ]
    partner = None
    if view.partners is not None and view.partners.image >= 0:
        partner = [store.keys[int(view.partners.image)], int(view.partners.view)]
    return {"stages": steps, "partner": partner}


def main() -> None:
    _make(GOLDEN, STORES, FORMAT_VERSION)
    _make(GOLDEN_2, STORES_2, VERSION_2)
    units = {
        name: (functools.partial(_made_in_units, make, unit_images), settings)
        for name, (make, settings, unit_images) in STORES_UNITS.items()
    }
    _make(GOLDEN_UNITS, units, VERSION_2)


def _made_in_units(make, unit_images, path, **settings) -> None:
    """A store's labels in units."""
    with tempfile.TemporaryDirectory() as folder:
        chunks = Path(folder) / "chunks.zarr"
        make(chunks, **settings)
        in_units(labelstore.open(chunks), path, unit_images)


def _make(folder, stores, version) -> None:
    """Make what is not there of a version's stores, and note what they say."""
    folder.mkdir(exist_ok=True)
    file = folder / "known.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    for name, (make, settings) in stores.items():
        path = folder / name
        if name in known:
            continue
        make(path, **{**SIZE, **settings})
        (path / ".lock").unlink()
        store = labelstore.open(path)
        if store.manifest.format_version != version:
            raise SystemExit(f"{name} is of version {store.manifest.format_version}: mend that")
        topk = store.read(np.arange(5)[:, None], np.arange(3))
        known[name] = {"classes": topk.indices.tolist(), "probs": topk.probs.tolist()}
        if isinstance(store.law, ViewLaw) and store.law.stages:
            known[name]["views"] = views_of(store)
        print(f"made {name}")
    file.write_text(json.dumps(dict(sorted(known.items()))) + "\n")


if __name__ == "__main__":
    main()
