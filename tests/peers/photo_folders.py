"""Photos in class folders, small ones of many sizes, in the order of torchvision's ImageFolder."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torchvision.datasets import ImageFolder

from labelstore.images import open_source
from labelstore.peers.peer_labels import PeerOptions

CLASSES = ("a", "a-b", "b", "c", "d")
"""As text, "a-b/..." comes before "a/...": in ImageFolder, class "a" is the first."""


def make_photos(folder, count=20, seed=3):
    """``count`` photos below a new folder, as many of each class."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        path = folder / CLASSES[number % len(CLASSES)] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(30, 90, 2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return folder


def reader_of(kind, folder):
    """What makes a reader of label files, of the photos in a folder unless others, or None, are
    given."""

    def read(files, photos=folder, **options):
        source = None if photos is None else open_source(photos)
        return kind(files, PeerOptions(photos=source, **options))

    return read


def keys_of(folder):
    """Keys of the photos in torchvision's own order."""
    samples = ImageFolder(str(folder)).samples
    return [str(path).removeprefix(f"{folder}/") for path, _ in samples]


def sizes_of(folder, keys):
    """(n, 2) height, width."""
    sizes = []
    for key in keys:
        with Image.open(folder / key) as photo:
            sizes.append(photo.size[::-1])
    return np.array(sizes)
