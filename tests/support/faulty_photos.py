"""Folders of small photos, and the faults that real ones have."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def picture(seed, width=64, height=48):
    """An image of noise, another for each seed."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def clean(folder, classes=("cat", "dog", "owl"), each=4):
    """Photos of three classes, each with its own content."""
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            photo = picture(100 * place + number, 60 + number, 50)
            photo.save(folder / name / f"{place}{number}.jpg", quality=90)
    return folder


def faulty(folder):
    """Clean photos, and one of each fault that a file system can have here."""
    clean(folder)
    whole = (folder / "cat" / "00.jpg").read_bytes()
    (folder / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "cat" / "head.jpg").write_bytes(whole[:40])
    picture(1, 200, 200).save(folder / "cat" / "large.png")
    (folder / "cat" / "notes.txt").write_text("no photo")
    (folder / "cat" / "same.jpg").write_bytes((folder / "cat" / "01.jpg").read_bytes())
    (folder / "dog" / "empty.png").write_bytes(b"")
    (folder / "dog" / "text.jpg").write_text("hello\n")
    picture(2).convert("CMYK").save(folder / "dog" / "cmyk.jpg")
    picture(3).convert("L").save(folder / "dog" / "grey.png")
    frames = [picture(4).convert("P"), picture(5).convert("P")]
    frames[0].save(folder / "dog" / "moving.gif", save_all=True, append_images=frames[1:])
    deep = np.random.default_rng(6).integers(0, 65536, (20, 20), dtype=np.uint16)
    Image.fromarray(deep).save(folder / "owl" / "deep.png")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture(7).save(folder / "owl" / "turned.jpg", exif=exif)
    (folder / "owl" / "copy.jpg").write_bytes(whole)
    os.mkfifo(folder / "owl" / "pipe.jpg")
    (folder / "owl" / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "owl" / "folder.jpg").mkdir()
    (folder / "emu").mkdir()
    (folder / "Cat").mkdir()
    picture(8).save(folder / "Cat" / "1.bmp")
    return folder
