"""Encoded images, opened and decoded by Pillow: upright, in RGB, or an error that says why not."""

from __future__ import annotations

import os
import struct
import threading
import warnings
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image, UnidentifiedImageError

from labelstore.errors import DecodeError, SourceError, UsageError, one_line
from labelstore.images.formats import DECODERS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "PARSER_ERRORS",
    "allow_pixels",
    "check_system",
    "decode",
    "examine",
    "is_upright",
    "max_pixels",
    "quiet_pillow",
    "to_rgb",
    "upright_size",
]

T = TypeVar("T")

_ORIENTATION = 0x0112

# EXIF's orientation -> what turns the stored pixels upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_SIDEWAYS = (5, 6, 7, 8)
"""Orientations in which width and height are exchanged."""

PARSER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow's parsers let through on damaged files; they promise no narrower set."""


class _QuietPillow:
    """Silences warnings raised in Pillow's modules while any thread is inside.

    ``warnings.catch_warnings`` alone does not do: threads that leave in another order than they
    entered would put back each other's filters.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: warnings.catch_warnings[Any] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._saved is None:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._saved is not None:
                self._saved.__exit__(None, None, None)
                self._saved = None


quiet_pillow = _QuietPillow()
"""Entered around many photos it spares each the time of silencing, a fifth of opening a JPEG."""


def decode(
    data: bytes, name: str, prepare: Callable[[Image.Image], None] | None = None
) -> Image.Image:
    """Decode an encoded image, whole, to an upright RGB image.

    Args:
        data: the encoded file; the first frame counts.
        name: what errors call the image, such as its path.
        prepare: called with the opened image before its pixels are decoded.

    Raises:
        DecodeError: the file is empty, of an unknown format, cut off or damaged, it has more than 8
            bits a channel where their conversion would clip, or it has more pixels than
            ``max_pixels()``. SourceError: the system lacks memory or files to decode it.
    """

    def whole(image: Image.Image) -> Image.Image:
        if prepare is not None:
            prepare(image)
        return to_rgb(image)

    return examine(data, name, whole)


def examine(data: bytes, name: str, see: Callable[[Image.Image], T]) -> T:
    """What ``see`` makes of an encoded image that is opened, its pixels not yet decoded.

    Args:
        data: the encoded file. name: what errors call the image.
        see: called with the opened image; twice where it fails.

    Raises:
        As ``decode``.
    """
    if not data:
        raise DecodeError(f"cannot decode the image {name}: the file is empty.")
    with quiet_pillow:
        try:
            return _examined(data, name, see)
        except DecodeError:
            # Decoders say little of what they lacked. So a failure counts where the system is
            # well and the same bytes fail again.
            check_system(name, len(data))
            return _examined(data, name, see)


def _examined(data: bytes, name: str, see: Callable[[Image.Image], T]) -> T:
    size = (0, 0)
    try:
        with Image.open(BytesIO(data), formats=DECODERS) as image:
            size = image.size
            return see(image)
    except UnidentifiedImageError as error:
        raise DecodeError(
            f"cannot decode the image {name}: its {len(data)} bytes are of no image format "
            f"that is read (Pillow's {', '.join(DECODERS)})."
        ) from error
    except SourceError as error:
        raise DecodeError(f"cannot decode the image {name}: {error}") from error
    except Image.DecompressionBombError as error:
        raise DecodeError(
            f"cannot decode the image {name}: it has more than the {max_pixels()} pixels that are "
            f"read ({one_line(error)}); if it is to be trusted, "
            "allow more (max_pixels; in Python labelstore.images.allow_pixels).",
            arguments=("max_pixels",),
        ) from error
    except PARSER_ERRORS as error:
        reason = one_line(error)
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            # An error with a number comes from the system: the bytes are in memory.
            raise _lacking(name, reason) from error
        check_system(name, 4 * size[0] * size[1])
        raise DecodeError(f"cannot decode the image {name}: {reason}.") from error


def check_system(name: str, room: int) -> None:
    """Raise SourceError where the system has no file or no memory to decode an image.

    Args:
        name: what the error calls the image. room: bytes of memory that decoding takes.
    """
    try:
        with open(os.devnull, "rb"):
            bytearray(room)
    except (OSError, MemoryError) as error:
        raise _lacking(name, getattr(error, "strerror", None) or "out of memory") from error


def _lacking(name: str, reason: str) -> SourceError:
    return SourceError(
        f"the image {name} could not be decoded for want of memory or files ({reason}): nothing is "
        "known of it; use fewer workers or raise the limits (ulimit).",
        arguments=("workers",),
    )


def allow_pixels(count: int) -> None:
    """Let this process decode photos of up to ``count`` pixels (width x height), at least 2.

    It sets ``PIL.Image.MAX_IMAGE_PIXELS``, at twice which Pillow takes a photo for a decompression
    bomb; processes that are not forked from this one (Windows, macOS, Ray) have to set it again.

    Raises:
        UsageError: fewer than 2 pixels.
    """
    if count < 2:
        raise UsageError(f"the most pixels of a photo are {count}, expected at least 2.")
    Image.MAX_IMAGE_PIXELS = (count + 1) // 2


def max_pixels() -> int | None:
    """The most pixels of a photo that this process decodes: by default Pillow's 178,956,970."""
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn an image upright as its EXIF orientation says and convert it to 8-bit RGB.

    Works too on an image that was already converted to RGB (Pillow keeps the EXIF data), and
    applying it twice is applying it once. Alpha is dropped, not blended; palettes are looked up.
    The image itself is left as it is; it is returned when nothing has to be done.

    Raises:
        SourceError: its mode has more than 8 bits a channel ("I", "I;16", "F"), or Pillow cannot
            convert it to RGB.
        OSError: it was opened lazily and its data turn out damaged (Pillow's own error; `decode`
            translates it).
    """
    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        raise SourceError(
            f"its mode {image.mode} has more than 8 bits a channel, and converting it would clip: "
            "scale it to 8 bits first."
        )
    # Loading comes first: Pillow turns a TIFF upright as it loads, and drops its orientation.
    image.load()
    method = _UPRIGHT.get(_orientation(image))
    try:
        upright = image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise SourceError(
            f"its mode {image.mode} cannot be converted to RGB: save it as RGB first."
        ) from error
    if method is not None:
        upright = upright.transpose(method)
        # The orientation may be told in several places; all of them are wrong from here on.
        upright.info = {}
    return upright


def is_upright(image: Image.Image) -> bool:
    """Whether an opened image is stored upright, as far as its EXIF orientation says."""
    return _orientation(image) not in _UPRIGHT


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) that an opened image has once it is upright."""
    width, height = image.size
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1..8; 1 where there is none or the EXIF data cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except PARSER_ERRORS:
        return 1
    return value if isinstance(value, int) else 1
