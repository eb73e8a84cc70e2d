"""One photo of a source: its bytes, what they are, and its pixels, or why it has none.

What the system did not read and what was read whole and cannot be decoded are two things: of the
first nothing is known, the second stays as it is. All that looks at photos tells them apart here.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from PIL import Image, UnidentifiedImageError

from labelstore.errors import DecodeError, SourceError
from labelstore.images.decoding import PARSER_ERRORS, examine, is_upright, to_rgb, upright_size
from labelstore.images.formats import DECODERS
from labelstore.images.pixels import content_digest

if TYPE_CHECKING:
    from labelstore.images.sources.choose import ImageSource

__all__ = [
    "Fault",
    "Header",
    "PhotoFile",
    "decode_photo",
    "fault_of",
    "format_suffix",
    "has_several_frames",
    "is_same_file",
    "is_same_size",
    "is_turned",
    "read_photo",
    "read_size",
]

Fault = Literal["empty", "no-image", "truncated", "damaged", "too-large", "mode"]
"""Why bytes cannot be decoded: there are none; they are of no format that is read; they end too
soon; they are damaged otherwise; there are more pixels than may be; the pixels' mode cannot be
converted."""

_OF_SEVERAL = frozenset({"GIF", "TIFF", "PNG", "WEBP", "AVIF", "HEIF", "MPO"})
"""Formats whose files may hold several frames."""

_ORIENTATION = 0x0112
"""Number of the tag."""

_BEGINNING = 16
"""Bytes by which Pillow tells formats."""

_ENDINGS = ("truncat", "unexpected end", "incomplete", "not enough")
"""What decoders say of files that end too soon."""


@dataclass(frozen=True)
class Header:
    """What an encoded image says of itself."""

    format: str
    """Pillow's name, such as ``"JPEG"``."""
    mode: str
    """Pillow's name of what its pixels are: ``"RGB"``, ``"L"`` (grey), ``"P"`` (palette), ..."""
    width: int
    """In pixels, once it is upright."""
    height: int
    """In pixels, once it is upright."""
    turned: bool
    """Whether EXIF turns or mirrors it."""


@dataclass(frozen=True)
class PhotoFile:
    """The encoded file of a photo, and what came of decoding it."""

    data: bytes | None
    """None where the source has none for the photo (a null in a table)."""
    photo: Image.Image | None
    """Upright RGB, whole; None where the bytes cannot be decoded."""
    error: DecodeError | None
    """Why not."""
    header: Header | None = None
    """What it says of itself, where it can be decoded."""

    @functools.cached_property
    def digest(self) -> int:
        """As ``content_digest``; 0 where there are no bytes."""
        return 0 if self.data is None else content_digest(self.data)


def read_photo(source: ImageSource, index: int) -> PhotoFile:
    """Read and decode image number ``index`` of a source.

    Raises:
        SourceError: the system did not read it, or has no room to decode it, or what cannot be
            decoded is another file when it is read again. Nothing is known of it then.
    """
    try:
        data = source.read(index)
    except DecodeError as error:
        return PhotoFile(None, None, error)
    return decode_photo(source, index, data)


def decode_photo(source: ImageSource, index: int, data: bytes) -> PhotoFile:
    """As ``read_photo``, of a photo whose bytes were read."""
    name = str(source.path_of(index))
    try:
        photo, header = examine(data, name, _decoded)
        return PhotoFile(data, photo, None, header)
    except DecodeError as error:
        file = PhotoFile(data, None, error)
    try:
        again = content_digest(source.read(index))
    except DecodeError as error:
        return PhotoFile(None, None, error)
    if again != file.digest:
        raise SourceError(
            f"the image {name} cannot be decoded, and read again it is another: it is being "
            "written, or the disk fails; wait until it is whole."
        )
    return file


def _decoded(image: Image.Image) -> tuple[Image.Image, Header]:
    """The upright RGB pixels of an image that was opened, and what it says of itself."""
    name, mode = str(image.format), image.mode
    # A TIFF forgets its orientation as it is loaded. Others are asked for theirs after that: asking
    # first would load some of them otherwise than ``decode`` does.
    turned = _is_turned_tiff(image)
    photo = to_rgb(image)
    turned = turned or not is_upright(image)
    return photo, Header(name, mode, photo.width, photo.height, turned)


def _is_turned_tiff(image: Image.Image) -> bool:
    with contextlib.suppress(*PARSER_ERRORS):
        return getattr(image, "tag_v2", {}).get(_ORIENTATION, 1) in range(2, 9)
    return False


def read_size(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) that an encoded image has once it is upright, as far as its head tells: what
    a PNG says behind its pixels of how to turn them is not seen.

    Raises:
        As ``decode``, as far as the head tells.
    """

    def size(image: Image.Image) -> tuple[int, int]:
        if image.format == "TIFF":
            # Whether its size is told upright already depends on Pillow's version.
            return to_rgb(image).size
        # Asked for its orientation, a PNG without one there would decode its pixels.
        has_none = image.format == "PNG" and "exif" not in image.info
        return image.size if has_none else upright_size(image)

    return examine(data, name, size)


def format_suffix(data: bytes, name: str) -> str:
    """What files of an encoded image's format end with, without the dot: ``jpg``, ``png``.

    Raises:
        As ``decode``, as far as the head tells.
    """
    kind = examine(data, name, lambda image: str(image.format)).lower()
    return {"jpeg": "jpg", "mpo": "jpg", "jpeg2000": "jp2"}.get(kind, kind)


def is_turned(data: bytes, name: str) -> bool:
    """Whether EXIF turns or mirrors an encoded image, which readers that ignore EXIF do not.

    Raises:
        As ``decode``, as far as the head tells.
    """
    return examine(data, name, lambda image: _is_turned_tiff(image) or not is_upright(image))


def fault_of(file: PhotoFile) -> Fault:
    """Why a photo cannot be decoded; of one that has an ``error``."""
    if not file.data:
        return "empty"
    cause = file.error.__cause__ if file.error is not None else None
    if isinstance(cause, UnidentifiedImageError):
        return "damaged" if _begins_as_image(file.data) else "no-image"
    if isinstance(cause, Image.DecompressionBombError):
        return "too-large"
    if isinstance(cause, SourceError):
        return "mode"
    text = str(cause).lower()
    ends_early = isinstance(cause, EOFError) or any(words in text for words in _ENDINGS)
    return "truncated" if ends_early else "damaged"


def _begins_as_image(data: bytes) -> bool:
    """Whether the first bytes are those of a format that is read."""
    # Some look at more bytes than a cut file has.
    beginning = data[:_BEGINNING].ljust(_BEGINNING, b"\0")
    with contextlib.suppress(*PARSER_ERRORS):
        accepts = (Image.OPEN[name][1] for name in DECODERS)
        return any(accept is not None and accept(beginning) is True for accept in accepts)
    return False


def has_several_frames(data: bytes, name: str) -> bool:
    """Whether a file that can be decoded has more frames than the first, which is the photo.

    Args:
        data: the encoded file. name: of its format, Pillow's.
    """
    if name not in _OF_SEVERAL:
        return False
    try:
        return examine(data, "", lambda image: bool(getattr(image, "is_animated", False)))
    except SourceError:
        return False


def is_same_file(data: bytes, digest: int) -> bool:
    """Whether an encoded file is the one with a digest, as far as that is known (0: unknown)."""
    return digest == 0 or content_digest(data) == digest


def is_same_size(size: tuple[int, int], stored: tuple[int, int]) -> bool:
    """Whether a photo has the (width, height) that a store holds; what is unknown (not positive)
    passes."""
    return min(stored) <= 0 or size == stored
