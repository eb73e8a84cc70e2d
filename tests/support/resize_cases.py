"""Crops by the Triton kernel in a process of its own: Triton reads its environment when imported.

python resize_cases.py: prints how many of the values are not Pillow's, and how many there are.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from labelstore.images import resize_on_device
from labelstore.images.pixels import cut


def main() -> None:
    assert resize_on_device._kernels_work(torch.device("cpu"))
    resize_on_device.has_kernels = lambda photo: True
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (60, 44, 3), dtype=np.uint8)
    photo[:, 22:] = 255
    heights, widths = rng.integers(1, 61, 4), rng.integers(1, 45, 4)
    tops, lefts = rng.integers(0, 61 - heights), rng.integers(0, 45 - widths)
    boxes = np.stack([tops, lefts, heights, widths], axis=1)
    boxes[0] = 0, 0, 60, 44
    boxes[1] = 1, 2, 58, 6  # the rows come first in newer versions of Pillow
    flips = np.array([False, True, True, False])
    differing = values = 0
    for name, size in (("bicubic", (12, 20)), ("bilinear", (50, 9)), ("lanczos", (12, 20))):
        found = resize_on_device.resize_boxes(torch.from_numpy(photo), boxes, flips, size, name)
        for crop, box, flip in zip(found.numpy(), boxes.tolist(), flips, strict=True):
            expected = cut(Image.fromarray(photo), box, bool(flip), size, name)
            differing += int((crop != expected).sum())
            values += expected.size
    print(differing, values)


if __name__ == "__main__":
    main()
