"""JPEG photos made from a seed, for machines that have no photos and no way to fetch any.

Their spectrum falls with frequency as that of natural images does (Field 1987, "Relations between
the statistics of natural images and the response properties of cortical cells": amplitude as 1 / f)
and they hold edges, so that decoding and resizing them takes about what a photo takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["place_synthetic_photos", "synthetic_photo"]

SHAPES = 12
"""Rectangles and discs of one colour in a photo."""


def synthetic_photo(number: int, width: int = 500, height: int = 375) -> Image.Image:
    """An RGB image of ``width`` x ``height`` pixels, the same for the same ``number``."""
    rng = np.random.default_rng(number)
    down = np.fft.fftfreq(height)[:, None]
    across = np.fft.rfftfreq(width)[None, :]
    amplitude = 1 / np.maximum(np.hypot(down, across), 1 / max(width, height))
    noise = rng.normal(size=(3, *amplitude.shape)) + 1j * rng.normal(size=(3, *amplitude.shape))
    planes = np.fft.irfft2(noise * amplitude, s=(height, width))
    planes /= np.abs(planes).max(axis=(1, 2), keepdims=True)
    # Channels of a photo go together; a little of each stays its own.
    pixels = 128 + 110 * (0.7 * planes[:1] + 0.3 * planes)
    y, x = np.mgrid[:height, :width]
    for shape in range(SHAPES):
        centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
        radius = rng.uniform(0.03, 0.2) * min(width, height)
        tall, wide = np.abs(y - centre_y), np.abs(x - centre_x)
        inside = np.hypot(tall, wide) < radius if shape % 2 else np.maximum(tall, wide) < radius
        colour = rng.uniform(0, 255, size=(3, 1))
        pixels[:, inside] = 0.5 * pixels[:, inside] + 0.5 * colour
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def place_synthetic_photos(
    folder: Path, count: int, *, distinct: int = 8, width: int = 500, height: int = 375
) -> None:
    """Write ``count`` JPEG files (quality 90) into a new folder; every ``distinct``-th is the same
    photo under another name, and so with other crops."""
    folder.mkdir(parents=True)
    for number in range(min(count, distinct)):
        photo = synthetic_photo(number, width, height)
        photo.save(folder / f"{number:05}.jpg", quality=90)
    for number in range(distinct, count):
        data = (folder / f"{number % distinct:05}.jpg").read_bytes()
        (folder / f"{number:05}.jpg").write_bytes(data)
