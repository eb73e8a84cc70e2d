"""Make the golden stores anew, until version 1 is frozen.

PYTHONPATH=tests python tests/format/make_golden.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from core_data import make_planned, written

import labelstore
from labelstore.manifest import FORMAT_VERSION

GOLDEN = Path(__file__).parent / "golden" / "v1"
SIZE = {"images": 5, "views": 3, "classes": 12, "block_images": 3}


def main() -> None:
    if FORMAT_VERSION != 1:
        raise SystemExit("these are the golden stores of format version 1")
    shutil.rmtree(GOLDEN, ignore_errors=True)
    GOLDEN.mkdir(parents=True)
    make_planned(GOLDEN / "prior-ratio16.zarr", **SIZE, k=3, prior_size=4, group_views=2)
    make_planned(
        GOLDEN / "top-p-ratio32.zarr", **SIZE, k=4, prior_size=4, quantizer="ratio32", top_p=0.7
    )
    for quantizer in ("u8", "u16", "fp32"):
        written(GOLDEN / f"law-{quantizer}.zarr", **SIZE, k=3, quantizer=quantizer)
    written(GOLDEN / "one-class.zarr", **SIZE, k=1, quantizer="ratio16")
    make_planned(GOLDEN / "prior-ratio16.parquet", **SIZE, k=3, prior_size=4, group_views=2)
    make_planned(GOLDEN / "top-p-u8.parquet", **SIZE, k=4, prior_size=4, quantizer="u8", top_p=0.7)
    written(GOLDEN / "one-class.parquet", **SIZE, k=1, quantizer="ratio16")
    boxes = np.arange(5 * 3 * 4).reshape(5, 3, 4)
    flips = np.arange(15).reshape(5, 3) % 2 == 1
    written(
        GOLDEN / "boxes-fp16.zarr",
        **SIZE,
        k=2,
        quantizer="fp16",
        law=None,
        boxes=boxes,
        flips=flips,
    )
    written(
        GOLDEN / "boxes-fp32.parquet",
        **SIZE,
        k=2,
        quantizer="fp32",
        law=None,
        boxes=boxes,
        flips=flips,
    )
    known = {}
    for path in sorted(path for path in GOLDEN.iterdir() if path.is_dir()):
        (path / ".lock").unlink()
        topk = labelstore.open(path).read(np.arange(5)[:, None], np.arange(3))
        known[path.name] = {"classes": topk.indices.tolist(), "probs": topk.probs.tolist()}
    (GOLDEN / "known.json").write_text(json.dumps(known) + "\n")


if __name__ == "__main__":
    main()
