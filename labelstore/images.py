"""Images: where they lie, their upright RGB pixels, the crops of views, and their classes.

Pixels are made by Pillow alone, in one order (decode, turn upright, convert to RGB, crop, resize,
mirror), so that a training loop which follows the same order sees the pixels that the teacher saw.
"""

from __future__ import annotations

import os
import struct
import threading
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from PIL import Image, UnidentifiedImageError

from labelstore.errors import DecodeError, NotFoundError, SourceError, UsageError
from labelstore.targets import read_class_map, resolve_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

__all__ = [
    "IMAGE_SUFFIXES",
    "INTERPOLATIONS",
    "FolderSource",
    "check_cut",
    "check_system",
    "content_digest",
    "cut",
    "decode",
    "is_upright",
    "pixel_digest",
    "read_class_map",
    "resolve_targets",
    "to_rgb",
    "upright_size",
]

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
)
"""Lower-case suffixes that name an image file: those that torchvision's ImageFolder takes."""

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
    "box": Image.Resampling.BOX,
}
"""Name of a resize filter -> Pillow's filter."""

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

# What Pillow's parsers let through on damaged files; they promise no narrower set.
_PARSER_ERRORS = (
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
    Image.DecompressionBombError,
    struct.error,
    zlib.error,
)


class FolderSource:
    """The images of a folder and its subfolders; links to folders are followed, loops are cut.

    Attributes:
        path: the folder.
        keys: relative POSIX paths of the images, sorted by code point.
        classes: sorted distinct first path components when every image lies in a subfolder, else
            None.
        mixed: whether images lie both directly in the folder and in subfolders.
        numbers: None; sources of other kinds may give class ids.
        ignored: number of files passed over since their suffix is no image's. Hidden files and
            folders are not counted.

    Raises:
        NotFoundError: there is no such folder.
        SourceError: it is a file, cannot be listed, holds no image, or the name of an image is not
            valid UTF-8.
    """

    path: Path
    keys: tuple[str, ...]
    classes: tuple[str, ...] | None
    mixed: bool
    numbers: None = None
    ignored: int

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise NotFoundError(
                f"there is no folder {self.path}: give the path of a folder of images."
            )
        if not self.path.is_dir():
            raise SourceError(
                f"{self.path} is a file, expected a folder of images: give the folder it lies in."
            )
        keys: list[str] = []
        self.ignored = 0
        for key in _walk(self.path, "", frozenset()):
            if os.path.splitext(key)[1].lower() in IMAGE_SUFFIXES:
                keys.append(_checked_name(self.path, key))
            else:
                self.ignored += 1
        if not keys:
            raise SourceError(
                f"{self.path} holds no image ({self.ignored} other files), expected files ending "
                f"in {', '.join(sorted(IMAGE_SUFFIXES))}: give a folder that holds some."
            )
        self.keys = tuple(sorted(keys))
        nested = sum("/" in key for key in self.keys)
        self.mixed = 0 < nested < len(self.keys)
        self.classes = None
        if nested == len(self.keys):
            self.classes = tuple(sorted({key.partition("/")[0] for key in self.keys}))

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"FolderSource({str(self.path)!r})"

    def path_of(self, index: int) -> Path:
        """Path of image number ``index``."""
        return self.path / self.keys[index]

    def class_name(self, index: int) -> str | None:
        """Class folder of image number ``index``; None where ``classes`` is None."""
        return None if self.classes is None else self.keys[index].partition("/")[0]

    def read(self, index: int) -> bytes:
        """The encoded file of image number ``index``.

        Raises:
            SourceError: it cannot be read, or changes while it is read.
        """
        path = self.path_of(index)
        try:
            with path.open("rb") as file:
                data = file.read()
                size = os.fstat(file.fileno()).st_size
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or error or type(error).__name__
            raise SourceError(
                f"cannot read the image {path} ({reason}): restore the file or its permissions, or "
                "what the system lacks."
            ) from error
        if size != len(data):
            raise SourceError(
                f"the image {path} has {size} bytes and {len(data)} could be read: it is being "
                "written, or the disk fails; wait until it is whole."
            )
        return data


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Relative paths of all files that are not hidden; ``above``: the folders being walked."""
    try:
        status = folder.stat()
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError as error:
        raise SourceError(
            f"cannot list the folder {folder} ({error.strerror or error}): make it readable or "
            "move it away."
        ) from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", above | {identity})
        # A dangling link is kept, to fail by name when it is read; reading a pipe would hang.
        elif entry.is_file() or entry.is_symlink():
            yield prefix + entry.name


def _checked_name(folder: Path, key: str) -> str:
    try:
        key.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SourceError(
            f"the name of the image {os.fsencode(key)!r} in {folder} is not valid UTF-8, so no "
            "store can hold it as a key: rename it."
        ) from error
    return key


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


_quiet_pillow = _QuietPillow()


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
            bits a channel where their conversion would clip, or it is so large that Pillow takes it
            for a decompression bomb. SourceError: the system lacks memory or files to decode it.
    """
    if not data:
        raise DecodeError(f"cannot decode the image {name}: the file is empty.")
    with _quiet_pillow:
        try:
            return _decoded(data, name, prepare)
        except DecodeError:
            # Decoders say little of what they lacked. So a failure counts where the system is
            # well and the same bytes fail again.
            check_system(name, len(data))
            return _decoded(data, name, prepare)


def _decoded(data: bytes, name: str, prepare: Callable[[Image.Image], None] | None) -> Image.Image:
    size = (0, 0)
    try:
        with Image.open(BytesIO(data)) as image:
            size = image.size
            if prepare is not None:
                prepare(image)
            return to_rgb(image)
    except UnidentifiedImageError as error:
        raise DecodeError(
            f"cannot decode the image {name}: its {len(data)} bytes are of no image format "
            "that Pillow knows."
        ) from error
    except SourceError as error:
        raise DecodeError(f"cannot decode the image {name}: {error}") from error
    except _PARSER_ERRORS as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            # An error with a number comes from the system: the bytes are in memory.
            raise _lacking(name, reason) from error
        if not isinstance(error, Image.DecompressionBombError):
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
        "known of it; use fewer --workers or raise the limits (ulimit)."
    )


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
    except _PARSER_ERRORS:
        return 1
    return value if isinstance(value, int) else 1


def cut(
    image: Image.Image,
    box: Sequence[int],
    flip: bool,
    size: tuple[int, int],
    interpolation: str,
) -> npt.NDArray[np.uint8]:
    """The pixels of one view: crop, then resize, then mirror left to right.

    Args:
        image: an upright RGB image.
        box: top, left, height, width in pixels, inside the image.
        flip: whether to mirror.
        size: (height, width) of the result.
        interpolation: one of `INTERPOLATIONS`.

    Returns:
        (height, width, 3) uint8, contiguous.

    Raises:
        UsageError: the image is not RGB, the box leaves it or is empty, the size is not positive,
            or the filter is unknown.
    """
    if image.mode != "RGB":
        raise UsageError(f"the image's mode is {image.mode}, expected RGB: use to_rgb first.")
    check_cut(image.size, box, size, interpolation)
    top, left, height, width = box
    cropped = image.crop((left, top, left + width, top + height))
    resized = cropped.resize((size[1], size[0]), INTERPOLATIONS[interpolation])
    pixels: npt.NDArray[np.uint8] = np.asarray(resized)
    return np.ascontiguousarray(pixels[:, ::-1] if flip else pixels)


def check_cut(
    photo: tuple[int, int], box: Sequence[int], size: tuple[int, int], interpolation: str
) -> None:
    """Raise UsageError where a box (top, left, height, width) leaves a photo (width, height) or is
    empty, a size is not positive or a filter unknown."""
    top, left, height, width = box
    if not (0 <= top < top + height <= photo[1] and 0 <= left < left + width <= photo[0]):
        raise UsageError(
            f"the box {tuple(box)} (top, left, height, width) leaves the image of {photo[1]} x "
            f"{photo[0]} pixels or is empty: give one inside the decoded, upright image."
        )
    if min(size) < 1:
        raise UsageError(f"the size is {size}, expected (height, width) of at least 1 each.")
    if interpolation not in INTERPOLATIONS:
        raise UsageError(
            f"the interpolation is {interpolation!r}, expected one of {', '.join(INTERPOLATIONS)}."
        )


def content_digest(data: bytes) -> int:
    """xxh3_64 of an encoded file, 1..2**64-1: a digest of 0 becomes 1, since 0 means "unknown"."""
    return int(xxhash.xxh3_64_intdigest(data)) or 1


def pixel_digest(pixels: npt.NDArray[np.uint8]) -> str:
    """xxh3_128, 32 hexadecimal digits, of an array's shape (as ``HxWx3``), a NUL and its bytes.

    Args:
        pixels: uint8 of any shape and memory order.

    Raises:
        UsageError: another dtype.
    """
    if pixels.dtype != np.uint8:
        raise UsageError(f"the pixels are {pixels.dtype}, expected uint8: convert them first.")
    shape = "x".join(str(length) for length in pixels.shape)
    hasher = xxhash.xxh3_128(f"{shape}\0".encode())
    hasher.update(np.ascontiguousarray(pixels).data)
    return str(hasher.hexdigest())
