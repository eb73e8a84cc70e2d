"""Photos decoded whole against photos decoded no finer than their views need, on one core.

Photos are JPEG files (quality 90) of one to sixteen real photos of 512 x 512 pixels side by side,
so that large ones are as detailed as small ones. Time is that of decoding a photo and cutting its
views; the pixels' difference is told beside that of another resize filter, which students are often
given.

    python -m benchmarks.decode
"""

from __future__ import annotations

import argparse
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.support.measuring import alternate, ratio, summary, write_result
from labelstore.images import reduced_jpeg
from labelstore.images.decoding import decode
from labelstore.operations.demo import place_photos
from labelstore.views.law import ViewLaw

ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 224])
    parser.add_argument("--views", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for side in options.sides:
        files = photos_of(side, options.photos)
        for size in options.sizes:
            rows += [measure(files, side, size, count) for count in options.views]
    setting = {"photos": options.photos, "quality": 90, "law": ViewLaw(seed=0).to_json()}
    write_result("decode", {"setting": setting, "rows": rows}, options.out)


def photos_of(side: int, count: int) -> list[bytes]:
    """Encoded photos of side x side pixels, each of other real photos side by side."""
    with tempfile.TemporaryDirectory() as folder:
        place_photos(Path(folder))
        real = [decode(path.read_bytes(), "") for path in sorted(Path(folder).glob("*/*"))]
    across = side // 512
    files = []
    for number in range(count):
        photo = Image.new("RGB", (side, side))
        for place in range(across**2):
            part = real[(number + place) % len(real)]
            photo.paste(part, (512 * (place % across), 512 * (place // across)))
        buffer = BytesIO()
        photo.save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def measure(files: list[bytes], side: int, size: int, count: int) -> dict[str, Any]:
    """One setting's times and differences."""
    law = ViewLaw(seed=0)
    hashes = np.arange(len(files), dtype=np.uint64)[:, None]
    views = law(hashes, np.arange(count), side, side)
    shape = (size, size)
    reductions = [reduced_jpeg.reduction_for(boxes, shape) for boxes in views.box]

    def cuts(reductions: list[int], interpolation: str = "bicubic") -> list[Any]:
        found = []
        for data, reduction, boxes, flips in zip(
            files, reductions, views.box, views.flip, strict=True
        ):
            photo = reduced_jpeg.decode_reduced(data, "", reduction)
            found += [
                photo.cut(box.tolist(), bool(flip), shape, interpolation)
                for box, flip in zip(boxes, flips, strict=True)
            ]
        return found

    whole = [1] * len(files)
    seconds = alternate(
        {"whole": lambda: cuts(whole), "reduced": lambda: cuts(reductions)}, ROUNDS, warmup=1
    )
    exact = np.stack(cuts(whole)).astype(np.float64)
    row = {
        "side": side,
        "size": size,
        "views_per_photo": count,
        "photos_reduced": round(float(np.mean(np.array(reductions) > 1)), 3),
        "whole": summary(seconds["whole"]),
        "reduced": summary(seconds["reduced"]),
        "whole_over_reduced": round(ratio(seconds["whole"], seconds["reduced"]), 2),
        "mean_difference": round(difference(cuts(reductions), exact), 2),
        "mean_difference_of_bilinear": round(difference(cuts(whole, "bilinear"), exact), 2),
    }
    print({name: value for name, value in row.items() if not isinstance(value, dict)}, flush=True)
    return row


def difference(pixels: list[Any], exact: Any) -> float:
    """Mean absolute difference, of 255."""
    return float(np.abs(np.stack(pixels) - exact).mean())


if __name__ == "__main__":
    main()
