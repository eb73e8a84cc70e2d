"""Formats of images: the names that files of them bear, and Pillow's decoders that may read them.

The decoders are listed, whatever a file is called, because some that Pillow has run another program
or trust what a file says about other files: EPS starts Ghostscript. None of these does.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util

from PIL import Image, features

__all__ = ["DECODERS", "IMAGE_SUFFIXES", "NOT_HERE", "is_image_name"]

_PLUGINS = {
    "JPEG": "JpegImagePlugin",
    "MPO": "MpoImagePlugin",
    "PNG": "PngImagePlugin",
    "WEBP": "WebPImagePlugin",
    "TIFF": "TiffImagePlugin",
    "BMP": "BmpImagePlugin",
    "DIB": "BmpImagePlugin",
    "PPM": "PpmImagePlugin",
    "GIF": "GifImagePlugin",
    "AVIF": "AvifImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
}
"""Pillow's name of a format -> its module that reads it."""

_ALWAYS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"}


def _load() -> tuple[tuple[str, ...], frozenset[str], dict[str, str]]:
    for module in set(_PLUGINS.values()):
        # An older Pillow lacks some.
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{module}")
    suffixes, not_here = set(_ALWAYS), {}
    if "avif" in features.modules and features.check("avif"):
        suffixes.add(".avif")
    else:
        not_here[".avif"] = "this Pillow was built without AVIF"
    heic = {".heic", ".heif"}
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
        suffixes |= heic
    else:
        not_here |= dict.fromkeys(sorted(heic), "pip install pillow-heif reads them")
    names = tuple(name for name in (*_PLUGINS, "HEIF") if name in Image.OPEN)
    return names, frozenset(suffixes), not_here


DECODERS: tuple[str, ...]
"""Pillow's names of the formats that are read, whatever the file is called."""

IMAGE_SUFFIXES: frozenset[str]
"""Lower-case suffixes that name an image file: those that torchvision's ImageFolder takes, GIF's,
and AVIF's and HEIC's where they can be read here."""

NOT_HERE: dict[str, str]
"""Suffixes of images that cannot be read here -> why, or what would read them."""

DECODERS, IMAGE_SUFFIXES, NOT_HERE = _load()


def is_image_name(name: str) -> bool:
    """Whether a file of this name (its path, with slashes) is taken for an image."""
    stem, dot, suffix = name.rpartition(".")
    # As posixpath.splitext, which takes five times as long; a million names are asked about.
    is_suffix = dot and f".{suffix.lower()}" in IMAGE_SUFFIXES
    return bool(is_suffix and stem.rpartition("/")[2].lstrip("."))
