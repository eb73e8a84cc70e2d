"""What is decoded, whatever a file is called, and how large it may be."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, features

from labelstore.errors import DecodeError, SourceError, UsageError
from labelstore.images.decoding import allow_pixels, decode, max_pixels
from labelstore.images.formats import DECODERS, IMAGE_SUFFIXES
from labelstore.images.sources.folder import FolderSource
from tests.support import commands

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gradient(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((48, 40), Image.Resampling.BICUBIC)


def png_of(width, height):
    """A PNG that says it has so many pixels, and has none."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("named", ["photo.jpg", "photo.eps"])
def test_eps_never_runs_ghostscript(tmp_path, named):
    """A program of its name tells whether it was called; Pillow by itself calls it."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\necho called >> {tmp_path}/called\necho 10.0\nexit 1\n")
    program.chmod(0o755)
    (tmp_path / named).write_bytes(EPS)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run(code):
        program = [sys.executable, "-c", f"import sys; {code}", tmp_path / named]
        return commands.run(program, env=environment)

    run("from PIL import Image; Image.open(sys.argv[1]).load()")
    called = tmp_path / "called"
    assert called.exists()
    called.unlink()
    done = run(
        "from labelstore.images.decoding import decode\n"
        "decode(open(sys.argv[1], 'rb').read(), 'photo')"
    )
    assert "DecodeError: cannot decode the image photo: its" in done.stderr
    assert not called.exists()


@pytest.mark.parametrize("format", ["PCX", "TGA", "PDF", "ICNS", "SGI"])
def test_other_formats_are_refused_under_any_name(format):
    if format == "PDF":
        data = encoded(gradient(), format)
    elif format == "ICNS":
        data = encoded(gradient().resize((64, 64)), format)
    else:
        data = encoded(gradient(), format)
    with pytest.raises(DecodeError, match="of no image format that is read"):
        decode(data, "photo.jpg")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "JPEG2000"])
def test_what_is_read_is_pillows(format):
    data = encoded(gradient(), format)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.asarray(decode(data, "photo")), expected)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [gradient(seed) for seed in range(3)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    (tmp_path / "a.GIF").write_bytes(data)
    source = FolderSource(tmp_path)
    assert source.keys == ("a.GIF",)
    shown = decode(source.read(0), "a.GIF")
    assert np.array_equal(np.asarray(shown), np.asarray(frames[0].quantize().convert("RGB")))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif():
    assert ".avif" in IMAGE_SUFFIXES
    shown = decode(encoded(gradient(), "AVIF", quality=100), "photo")
    difference = np.abs(np.asarray(shown, dtype=int) - np.asarray(gradient(), dtype=int))
    assert difference.mean() < 3


def test_heic():
    pytest.importorskip("pillow_heif")
    assert {".heic", ".heif"} <= IMAGE_SUFFIXES
    assert "HEIF" in DECODERS
    shown = decode(encoded(gradient(), "HEIF", quality=95), "photo")
    difference = np.abs(np.asarray(shown, dtype=int) - np.asarray(gradient(), dtype=int))
    assert difference.mean() < 6


def test_heic_where_it_cannot_be_read_is_told(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"x")
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'pillow_heif' else find(name, *a)\n"
        "from labelstore.images.sources.choose import open_source; open_source(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert "holds no image (1 other file passed over: 1 '.heic' ('a.heic')" in done.stderr
    assert "pip install pillow-heif reads them" in done.stderr


class TestManyPixels:
    def test_more_than_pillows_limit_is_an_error_with_its_mend(self):
        assert max_pixels() == 178_956_970
        with pytest.raises(DecodeError, match=r"more than the 178956970 pixels.*max_pixels"):
            decode(png_of(20_000, 20_000), "photo")

    def test_the_limit_can_be_raised_and_lowered(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
        data = encoded(gradient(), "PNG")
        allow_pixels(48 * 40)
        assert decode(data, "photo").size == (48, 40)
        allow_pixels(48 * 40 - 2)
        with pytest.raises(SourceError, match="more than the 1918 pixels"):
            decode(data, "photo")
        allow_pixels(48 * 40)
        assert decode(data, "photo").size == (48, 40)
        with pytest.raises(UsageError, match="at least 2"):
            allow_pixels(1)
