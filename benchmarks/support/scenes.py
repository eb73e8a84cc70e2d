"""Scenes: photographs of objects on photographic backgrounds, as a data set of classes.

An image has one object of its class, of which 5 to 60 % of the image are to be seen, any place,
partly outside at times, and up to two objects of other classes, smaller, behind it or in front of
it; light and colour vary. So a random crop may be background alone, a part, or the whole, as with
photographs of a camera. Test images have other backgrounds than training images, and of a class
with three photographs or more other photographs of its objects.

Each image is a function of the seed and its number. The bytes depend on the version of Pillow too.
"""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import xxhash
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    Pixels = npt.NDArray[np.float32]

__all__ = ["AREA", "SIDE", "Pack", "Scene", "compose", "photos_of", "place_scenes"]

SIDE = 128
"""Pixels of an image."""

AREA = (0.05, 0.60)
"""What is to be seen of the object, as a share of the image."""

HELD_OUT_FROM = 3
"""So many photographs must a class have for its test images to show others."""

_SHARE = 4
"""One of so many photographs is for the test images, at least one."""

_TRIES = 200
"""Draws of an image, of which the first that fits is taken."""

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Pack:
    """The photographs that scenes are made of."""

    root: Path
    """The folder of all of them: their paths from there are their names."""
    objects: Mapping[str, tuple[Path, ...]]
    """Class -> photographs with an outline (an alpha channel)."""
    backgrounds: tuple[Path, ...]

    def name(self, photo: Path) -> str:
        """A photograph's path from the root, the same on every machine."""
        return photo.relative_to(self.root).as_posix()

    @property
    def classes(self) -> list[str]:
        """Their names, sorted: the numbers that a folder of them has."""
        return sorted(self.objects)


@dataclass(frozen=True)
class Scene:
    """What an image shows; ``scenes.json`` has one for each."""

    key: str
    """``class/number.jpg``."""
    area: float
    """Share of the image on which the object is to be seen, by its outline's opacity."""
    whole: float
    """Share of the object that is to be seen: 1 where nothing hides it and nothing is outside."""
    photo: str
    background: str
    others: tuple[str, ...]
    """Classes of the other objects."""


def photos_of(pack: Pack, part: Part) -> Pack:
    """The photographs of the training images, or of the test images."""
    objects = {
        name: _shared(pack, photos, part) if len(photos) >= HELD_OUT_FROM else tuple(photos)
        for name, photos in pack.objects.items()
    }
    return Pack(pack.root, objects, _shared(pack, pack.backgrounds, part))


def _shared(pack: Pack, photos: Sequence[Path], part: Part) -> tuple[Path, ...]:
    """Those of a part, chosen by a hash of their names."""
    order = sorted(photos, key=lambda photo: xxhash.xxh3_64_hexdigest(pack.name(photo).encode()))
    count = max(1, len(order) // _SHARE)
    return tuple(order[:count] if part == "test" else order[count:])


def place_scenes(
    pack: Pack, folder: Path, part: Part, images_per_class: int, seed: int = 0
) -> list[Scene]:
    """JPEG files in class folders below ``folder``, and ``scenes.json`` beside it.

    Args:
        pack: all photographs; those of the part are taken.
        folder: a new folder; it is there when all is there. One that exists is left as it is.
        part: training or test images.
        images_per_class: how many of each class.
        seed: of everything that is drawn.

    Returns:
        what each image shows, in the order of the keys.
    """
    record = folder.with_name(f"{folder.name}.json")
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        photos = photos_of(pack, part)
        scenes = []
        for label, name in enumerate(photos.classes):
            (partial / name).mkdir(parents=True)
            for number in range(images_per_class):
                rng = np.random.default_rng([seed, part == "test", label, number])
                pixels, scene = compose(photos, name, rng, f"{name}/{number:05}.jpg")
                (partial / scene.key).write_bytes(_jpeg(pixels))
                scenes.append(scene)
        record.write_text(json.dumps([asdict(scene) for scene in scenes]))
        partial.rename(folder)
    entries = json.loads(record.read_text())
    return [Scene(**{**entry, "others": tuple(entry["others"])}) for entry in entries]


def compose(
    pack: Pack, name: str, rng: np.random.Generator, key: str = ""
) -> tuple[npt.NDArray[np.uint8], Scene]:
    """One image of a class: (128, 128, 3) uint8, and what it shows.

    Raises:
        ValueError: no draw fits, as of a photograph that is thinner than any area allows.
    """
    for _ in range(_TRIES):
        drawn = _draw(pack, name, rng, key)
        if drawn is not None:
            return drawn
    raise ValueError(f"no draw of {_TRIES} shows enough of {name}")


def _draw(
    pack: Pack, name: str, rng: np.random.Generator, key: str
) -> tuple[npt.NDArray[np.uint8], Scene] | None:
    """A draw; None where too little or too much of the object is to be seen."""
    area = float(np.exp(rng.uniform(*np.log(AREA))))
    photo = _one(pack.objects[name], rng)
    layer = _place(photo, area, rng)
    alpha = layer[..., 3] / 255
    if alpha.mean() < AREA[0]:
        return None
    behind, front, others = [], [], []
    rest = [other for other in pack.classes if other != name]
    count = min(int(rng.choice(3, p=(0.4, 0.35, 0.25))), len(rest))
    for other in rng.choice(len(rest), count, replace=False):
        share = float(rng.uniform(0.02, 0.7 * area))
        layers = front if rng.random() < 0.35 else behind
        layers.append(_place(_one(pack.objects[rest[other]], rng), share, rng))
        others.append(rest[other])
    for hiding in front:
        alpha = alpha * (1 - hiding[..., 3] / 255)
    seen = float(alpha.mean())
    largest = max((float(other[..., 3].mean()) / 255 for other in behind + front), default=0.0)
    # The class is that of the object of which most is to be seen, and half of it is.
    if not (AREA[0] <= seen <= AREA[1]) or seen < 0.5 * area or largest > 0.8 * seen:
        return None
    background = _one(pack.backgrounds, rng)
    pixels = _window(background, rng)
    for pasted in (*behind, layer, *front):
        opacity = pasted[..., 3:] / 255
        pixels = pixels * (1 - opacity) + _lit(pasted[..., :3], rng, 0.25) * opacity
    pixels = _lit(pixels, rng, 0.15)
    out = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    whole = min(1.0, seen / area)
    names = pack.name(photo), pack.name(background)
    return out, Scene(key, round(seen, 4), round(whole, 4), *names, tuple(others))


def _one(photos: Sequence[Path], rng: np.random.Generator) -> Path:
    return photos[int(rng.integers(len(photos)))]


def _place(photo: Path, area: float, rng: np.random.Generator) -> Pixels:
    """An object on a transparent (128, 128, 4) image, of which it would cover ``area``."""
    cutout = _cutout(photo)
    turned = cutout.rotate(float(rng.uniform(-20, 20)), Image.Resampling.BICUBIC, expand=True)
    if rng.random() < 0.5:
        turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    opaque = float(np.asarray(turned.getchannel("A"), np.float32).sum()) / 255
    scale = (area * SIDE * SIDE / opaque) ** 0.5
    size = (max(1, round(turned.width * scale)), max(1, round(turned.height * scale)))
    # Enlarged from a photograph that has fewer pixels it is blurred, as what is out of focus.
    object_ = turned.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (SIDE, SIDE))
    if rng.random() < 0.7:
        # Inside, where there is room, and else over both edges.
        corner = [_between(0, SIDE - length, rng) for length in size]
    else:
        corner = [_between(-length // 2, SIDE - length // 2, rng) for length in size]
    canvas.paste(object_, (corner[0], corner[1]))
    return np.asarray(canvas, np.float32)


def _between(low: int, high: int, rng: np.random.Generator) -> int:
    return int(rng.integers(min(low, high), max(low, high) + 1))


def _window(photo: Path, rng: np.random.Generator) -> Pixels:
    """A square part of a background, (128, 128, 3)."""
    image = _background(photo)
    least = min(image.size)
    side = int(rng.uniform(min(SIDE, least), least + 1))
    left, top = (int(rng.integers(length - side + 1)) for length in image.size)
    window = image.resize(
        (SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + side, top + side)
    )
    pixels = np.asarray(window, np.float32)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def _lit(pixels: Pixels, rng: np.random.Generator, strength: float) -> Pixels:
    """In other light: brightness, contrast, colour and saturation, all by ``1 +- strength``."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    colour = rng.uniform(1 - strength / 2, 1 + strength / 2, 3)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * saturation
    pixels = 128 + (pixels - 128) * contrast
    return (pixels * brightness * colour).astype(np.float32)


@cache
def _cutout(photo: Path) -> Image.Image:
    """An object without what is transparent around it, at most 256 pixels long."""
    with Image.open(photo) as file:
        image = file.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    image.thumbnail((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS)
    return image


@cache
def _background(photo: Path) -> Image.Image:
    """A background, its shorter side about 512 pixels."""
    with Image.open(photo) as file:
        file.draft("RGB", (4 * SIDE, 4 * SIDE))
        image = file.convert("RGB")
    factor = 4 * SIDE / min(image.size)
    size = [max(4 * SIDE, round(length * factor)) for length in image.size]
    return image.resize((size[0], size[1]), Image.Resampling.BOX)


def _jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()
