"""The generator of scenes on photographs that are made here: discs, bars and rings on noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.support.scenes import AREA, SIDE, Pack, photos_of, place_scenes

PER_CLASS = 12


def object_photo(shape: str, colour: tuple[int, int, int]) -> Image.Image:
    """A shape of one colour with its outline, a margin of nothing around it."""
    y, x = np.mgrid[-60:60, -60:60]
    radius = np.hypot(x, y)
    inside = {
        "disc": radius < 50,
        "bar": (abs(x) < 50) & (abs(y) < 18),
        "ring": (radius < 50) & (radius > 20),
    }[shape]
    pixels = np.zeros((*inside.shape, 4), np.uint8)
    pixels[inside] = (*colour, 255)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    root = tmp_path_factory.mktemp("pack")
    rng = np.random.default_rng(0)
    objects = {}
    # A class with four photographs, of which a test image must show another, and two with few.
    for name, count in (("disc", 4), ("bar", 2), ("ring", 1)):
        photos = [root / f"{name}-{number}.png" for number in range(count)]
        for photo in photos:
            object_photo(name, tuple(rng.integers(30, 220, 3))).save(photo)
        objects[name] = tuple(photos)
    backgrounds = []
    for number in range(5):
        # As KDE's wallpapers: every one has the same file name.
        backgrounds.append(root / f"wallpaper-{number}" / "1920x1080.png")
        backgrounds[-1].parent.mkdir()
        noise = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((300, 200)).save(backgrounds[-1])
    return Pack(root, objects, tuple(backgrounds))


@pytest.fixture(scope="module")
def scenes(pack, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return folder, {
        part: place_scenes(pack, folder / part, part, PER_CLASS, seed=3)
        for part in ("train", "test")
    }


def test_each_class_has_its_images_and_each_image_enough_of_its_object(pack, scenes):
    folder, parts = scenes
    for part, shown in parts.items():
        files = sorted(
            file.relative_to(folder / part).as_posix() for file in (folder / part).rglob("*.jpg")
        )
        assert files == sorted(scene.key for scene in shown)
        counts = {name: sum(key.startswith(f"{name}/") for key in files) for name in pack.classes}
        assert counts == dict.fromkeys(("bar", "disc", "ring"), PER_CLASS)
        for scene in shown:
            assert AREA[0] <= scene.area <= AREA[1]
            assert 0.5 <= scene.whole <= 1
            assert len(scene.others) <= 2
            assert scene.key.partition("/")[0] not in scene.others
            with Image.open(folder / part / scene.key) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (SIDE, SIDE))
    both = [scene for shown in parts.values() for scene in shown]
    # All that a photograph of the world has occurs: small and large, alone, beside others, hidden.
    areas = [scene.area for scene in both]
    assert min(areas) < 0.1 < 0.3 < max(areas)
    assert {len(scene.others) for scene in both} == {0, 1, 2}
    assert any(scene.whole < 0.9 for scene in both)


def test_test_images_have_other_backgrounds_and_other_photographs(pack, scenes):
    _, parts = scenes
    grounds = {part: {scene.background for scene in shown} for part, shown in parts.items()}
    assert grounds["train"]
    assert grounds["test"]
    assert grounds["train"].isdisjoint(grounds["test"])
    discs = {
        part: {scene.photo for scene in shown if scene.key.startswith("disc/")}
        for part, shown in parts.items()
    }
    assert discs["train"].isdisjoint(discs["test"])
    train, test = photos_of(pack, "train"), photos_of(pack, "test")
    assert set(train.backgrounds) | set(test.backgrounds) == set(pack.backgrounds)
    # Of few photographs none is given away: both parts show the same.
    assert train.objects["bar"] == test.objects["bar"] == pack.objects["bar"]


def test_the_same_seed_gives_the_same_bytes(pack, scenes, tmp_path):
    folder, parts = scenes
    again = place_scenes(pack, tmp_path / "test", "test", PER_CLASS, seed=3)
    assert again == parts["test"]
    for scene in again:
        assert (tmp_path / "test" / scene.key).read_bytes() == (
            folder / "test" / scene.key
        ).read_bytes()
    # Fewer images of a class are the first of more, and another seed gives others.
    fewer = place_scenes(pack, tmp_path / "fewer", "test", 2, seed=3)
    assert fewer == [scene for scene in again if int(scene.key[-9:-4]) < 2]
    assert place_scenes(pack, tmp_path / "other", "test", 2, seed=4) != fewer


def test_a_whole_folder_is_left_as_it_is_and_a_part_of_one_is_made_anew(pack, tmp_path):
    whole = tmp_path / "train"
    first = place_scenes(pack, whole, "train", 1, seed=3)
    (whole / first[0].key).write_bytes(b"mine")
    assert place_scenes(pack, whole, "train", 1, seed=3) == first
    assert (whole / first[0].key).read_bytes() == b"mine"
    # What an interrupted run leaves has another name.
    partial = tmp_path / "later.partial"
    partial.mkdir()
    (partial / "stray.jpg").write_bytes(b"half")
    place_scenes(pack, tmp_path / "later", "train", 1, seed=3)
    assert not list((tmp_path / "later").rglob("stray.jpg"))
    assert len(json.loads((tmp_path / "later.json").read_text())) == len(pack.classes)
