"""Image sources, decoding, crops and ground truth, on real files."""

from __future__ import annotations

import io
import json
import os
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from labelstore.errors import MismatchError, NotFoundError, SourceError, UsageError
from labelstore.images.decoding import decode, to_rgb
from labelstore.images.ground_truth.class_map import read_class_map
from labelstore.images.ground_truth.targets import resolve_targets
from labelstore.images.pixels import INTERPOLATIONS, content_digest, cut, pixel_digest, render
from labelstore.images.sources.folder import FolderSource
from labelstore.teachers.class_names import names_of
from labelstore.teachers.timm_networks import imagenet_class_names
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys

ORIENTATION = 0x0112


def photo(height=48, width=64, seed=0):
    """A smooth RGB image without any symmetry, so that JPEG keeps it nearly as it is."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def lay_out(folder, *keys):
    for number, key in enumerate(keys):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photo(8, 8, number)))
    return FolderSource(folder)


def upright_exif(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


# What a camera that is held as EXIF's orientation says stores of an upright scene.
STORED = {
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.transpose(1, 0, 2),
    6: lambda scene: np.rot90(scene, 1),
    7: lambda scene: scene[::-1, ::-1].transpose(1, 0, 2),
    8: lambda scene: np.rot90(scene, -1),
}


class TestFolderSource:
    def test_keys_are_sorted_by_code_point_and_read_back(self, tmp_path):
        names = ["b/2.png", "b/10.PNG", "a/é.jpeg", "a/Z.jpg", "a/日本.webp", "a/deep/x.tiff"]
        source = lay_out(tmp_path, *names[:2], *names[3:], names[2])
        assert source.keys == tuple(sorted(names))
        assert len(source) == 6
        assert source.classes == ("a", "b")
        assert not source.mixed
        place = source.keys.index("a/é.jpeg")
        assert source.class_name(place) == "a"
        assert source.path_of(place) == tmp_path / "a" / "é.jpeg"
        assert source.read(place) == (tmp_path / "a" / "é.jpeg").read_bytes()

    def test_other_files_are_counted_and_hidden_ones_are_not(self, tmp_path):
        lay_out(tmp_path, "a/1.png", "a/.2.png", ".cache/3.png")
        (tmp_path / "a" / "notes.txt").write_text("x")
        (tmp_path / "README").write_text("x")
        (tmp_path / ".DS_Store").write_text("x")
        source = FolderSource(str(tmp_path))
        assert source.keys == ("a/1.png",)
        assert source.ignored == 2

    def test_flat_and_mixed_folders_have_no_classes(self, tmp_path):
        flat = lay_out(tmp_path / "flat", "1.png", "2.png")
        assert (flat.classes, flat.mixed, flat.class_name(0)) == (None, False, None)
        mixed = lay_out(tmp_path / "mixed", "1.png", "a/2.png")
        assert (mixed.classes, mixed.mixed, mixed.class_name(1)) == (None, True, None)
        assert len(mixed) == 2

    def test_links_are_followed_and_loops_are_cut(self, tmp_path):
        lay_out(tmp_path / "elsewhere", "1.png")
        source = lay_out(tmp_path / "photos", "a/1.png")
        (tmp_path / "photos" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        (tmp_path / "photos" / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        (tmp_path / "photos" / "a" / "up").symlink_to(tmp_path / "photos", target_is_directory=True)
        source = FolderSource(tmp_path / "photos")
        assert source.keys == ("a/1.png", "b/1.png", "c/1.png")

    def test_a_dangling_link_fails_by_name_when_read(self, tmp_path):
        (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
        source = FolderSource(tmp_path)
        with pytest.raises(SourceError, match=r"gone\.png .*restore the file"):
            source.read(0)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_a_pipe_is_refused_by_name(self, tmp_path):
        """Not passed over: the photo that should be there would be missed by nobody."""
        os.mkfifo(tmp_path / "pipe.png")
        source = lay_out(tmp_path, "1.png")
        assert source.keys == ("1.png", "pipe.png")
        with pytest.raises(SourceError, match=r"pipe\.png.*a pipe"):
            source.read(1)

    def test_folders_that_cannot_be_used(self, tmp_path):
        with pytest.raises(NotFoundError, match="there is no folder"):
            FolderSource(tmp_path / "nowhere")
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(
            SourceError, match=r"holds no image \(1 other file passed over: 1 '.txt'"
        ):
            FolderSource(tmp_path)
        with pytest.raises(SourceError, match="is a file, expected a folder"):
            FolderSource(tmp_path / "notes.txt")

    def test_a_name_that_is_no_utf8_is_refused(self, tmp_path):
        name = os.fsencode(tmp_path) + b"/caf\xe9.png"
        try:
            with open(name, "wb") as file:
                file.write(encode(photo()))
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
        with pytest.raises(SourceError, match=r"caf\\xe9.*rename it"):
            FolderSource(tmp_path)


class TestUpright:
    @pytest.mark.parametrize("orientation", STORED)
    def test_every_orientation_comes_out_upright(self, orientation):
        scene = np.asarray(photo())
        stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](scene)))
        exif = upright_exif(orientation)
        for format in ("PNG", "TIFF"):
            upright = decode(encode(stored, format, exif=exif), "photo")
            np.testing.assert_array_equal(np.asarray(upright), scene)
        data = encode(stored, "JPEG", exif=exif, quality=98, subsampling=0)
        upright = decode(data, "photo")
        assert upright.size == (64, 48)
        difference = np.abs(np.asarray(upright).astype(int) - scene)
        assert difference.mean() < 2

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
    @pytest.mark.parametrize("orientation", [1, 6])
    def test_an_image_that_a_loader_converted_already_comes_out_the_same(self, format, orientation):
        data = encode(photo(), format, exif=upright_exif(orientation))
        expected = decode(data, "photo")
        lazy = to_rgb(Image.open(io.BytesIO(data)))
        converted = Image.open(io.BytesIO(data)).convert("RGB")
        before = converted.tobytes()
        again = to_rgb(to_rgb(converted))
        assert expected.size == ((48, 64) if orientation == 6 else (64, 48))
        assert lazy.size == again.size == expected.size
        assert lazy.tobytes() == again.tobytes() == expected.tobytes()
        assert converted.tobytes() == before

    def test_an_orientation_told_by_xmp_alone_is_applied_once(self):
        xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
        data = encode(photo(), "JPEG", xmp=xmp)
        upright = decode(data, "photo")
        assert upright.size == (48, 64)
        assert to_rgb(upright).size == (48, 64)

    def test_exif_that_is_no_exif_does_not_spoil_the_photo(self):
        for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage" * 9):
            assert decode(encode(photo(), "JPEG", exif=exif), "photo").size == (64, 48)

    def test_an_rgb_image_is_not_copied(self):
        image = photo()
        assert to_rgb(image) is image


class TestModes:
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "RGB"])
    def test_modes_convert_as_pillow_does(self, mode):
        image = photo().convert(mode)
        format = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
        data = encode(image, format)
        with Image.open(io.BytesIO(data)) as stored:
            expected = stored.convert("RGB")
        decoded = decode(data, "photo")
        assert decoded.mode == "RGB"
        assert decoded.tobytes() == expected.tobytes()

    def test_alpha_is_dropped(self):
        image = photo()
        clear = image.copy()
        clear.putalpha(0)
        assert decode(encode(clear), "photo").tobytes() == image.tobytes()

    def test_a_palette_with_transparency_makes_no_warning(self):
        image = photo().quantize(16)
        data = encode(image, "PNG", transparency=bytes(range(16)))
        assert decode(data, "photo").tobytes() == image.convert("RGB").tobytes()

    @pytest.mark.parametrize(("mode", "format"), [("I;16", "PNG"), ("I", "TIFF"), ("F", "TIFF")])
    def test_more_than_8_bits_a_channel_are_refused(self, mode, format):
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(np.full((4, 4), 1000, dtype=dtype))
        assert image.mode == mode
        data = encode(image, format)
        with pytest.raises(SourceError, match=r"image deep: .*more than 8 bits"):
            decode(data, "deep")
        with pytest.raises(SourceError, match="more than 8 bits"):
            to_rgb(image)

    def test_a_mode_that_pillow_cannot_convert_is_refused(self):
        with pytest.raises(SourceError, match="La cannot be converted"):
            to_rgb(Image.new("La", (4, 4)))


class TestDamage:
    def test_files_that_are_no_images(self):
        with pytest.raises(SourceError, match=r"image a/empty\.jpg: the file is empty"):
            decode(b"", "a/empty.jpg")
        with pytest.raises(SourceError, match=r"image a/page\.jpg: its 15 bytes are of no image"):
            decode(b"<html>404</html>"[:15], "a/page.jpg")

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM"])
    def test_a_truncated_file_is_refused(self, format):
        data = encode(photo(), format)
        with pytest.raises(SourceError, match="cut off"):
            decode(data[: len(data) // 2], "cut off")

    def test_an_image_too_large_to_be_true_is_refused(self, monkeypatch):
        data = encode(photo())
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 64 // 3)
        with pytest.raises(SourceError, match="bomb"):
            decode(data, "huge")
        # Between the limit and its double Pillow only warns; any warning would fail this test.
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 64 - 1)
        assert decode(data, "large").size == (64, 48)

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM"])
    def test_flipped_bytes_give_pixels_or_a_source_error(self, format):
        exif = {} if format in ("BMP", "PPM") else {"exif": upright_exif(6)}
        data = encode(photo(24, 32), format, **exif)
        rng = np.random.default_rng(0)
        failed = 0
        for _ in range(250):
            damaged = bytearray(data)
            # Headers come first, and damage there is the more telling.
            last = 64 if rng.random() < 0.5 else len(data)
            for place in rng.integers(0, last, rng.integers(1, 6)):
                damaged[place] = rng.integers(0, 256)
            try:
                assert decode(bytes(damaged), "damaged").mode == "RGB"
            except SourceError:
                failed += 1
        assert failed > 0

    def test_threads_leave_the_warning_filters_as_they_were(self):
        data = encode(photo().quantize(16), "PNG", transparency=bytes(range(16)))
        errors = []

        def work():
            try:
                for _ in range(50):
                    decode(data, "photo")
            except Warning as warning:
                errors.append(warning)

        before = list(warnings.filters)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert list(warnings.filters) == before


class TestCut:
    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    @pytest.mark.parametrize("flip", [False, True])
    def test_pixels_are_those_of_torchvision(self, interpolation, flip):
        from torchvision.transforms import InterpolationMode, functional as F

        image = photo(97, 131)
        mode = InterpolationMode(interpolation)
        boxes = [(0, 0, 97, 131), (3, 5, 40, 33), (96, 130, 1, 1), (10, 20, 56, 56), (0, 7, 97, 9)]
        for top, left, height, width in boxes:
            for size in ((56, 56), (64, 48), (160, 176)):
                expected = F.resized_crop(image, top, left, height, width, list(size), mode)
                if flip:
                    expected = F.hflip(expected)
                pixels = cut(image, [top, left, height, width], flip, size, interpolation)
                np.testing.assert_array_equal(pixels, np.asarray(expected))
                assert pixels.shape == (*size, 3)
                assert pixels.dtype == np.uint8
                assert pixels.flags.c_contiguous

    def test_views_of_a_photo_are_rendered_one_by_one(self):
        image = photo(97, 131)
        views = ViewLaw(seed=3)(hash_keys(["a"]), np.arange(6), *image.size)
        assert views.flip.any()
        assert not views.flip.all()
        pixels = render(image, views, (32, 48), "bilinear")
        assert (pixels.shape, pixels.dtype) == ((6, 32, 48, 3), np.uint8)
        for number in range(6):
            box, flip = views.box[number].tolist(), bool(views.flip[number])
            expected = cut(image, box, flip, (32, 48), "bilinear")
            np.testing.assert_array_equal(pixels[number], expected)
        none = ViewLaw()(hash_keys(["a"]), np.arange(0), *image.size)
        assert render(image, none, (32, 48), "bilinear").shape == (0, 32, 48, 3)

    def test_nothing_outside_the_box_is_looked_at(self):
        inside = np.asarray(photo(20, 20))
        framed = np.zeros((40, 40, 3), dtype=np.uint8)
        framed[10:30, 10:30] = inside
        whole = cut(Image.fromarray(inside), (0, 0, 20, 20), False, (31, 31), "bicubic")
        part = cut(Image.fromarray(framed), (10, 10, 20, 20), False, (31, 31), "bicubic")
        np.testing.assert_array_equal(part, whole)

    @pytest.mark.parametrize(
        "box", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 49, 5), (0, 60, 5, 5), (0, 0, 5, -5)]
    )
    def test_a_box_outside_the_image_is_refused(self, box):
        with pytest.raises(UsageError, match="leaves the image of 48 x 64"):
            cut(photo(), box, False, (8, 8), "bilinear")

    def test_other_bad_requests(self):
        with pytest.raises(UsageError, match="'random', expected one of nearest"):
            cut(photo(), (0, 0, 5, 5), False, (8, 8), "random")
        with pytest.raises(UsageError, match="size is"):
            cut(photo(), (0, 0, 5, 5), False, (8, 0), "bilinear")
        with pytest.raises(UsageError, match="mode is L, expected RGB"):
            cut(photo().convert("L"), (0, 0, 5, 5), False, (8, 8), "bilinear")


class TestDigests:
    def test_content_digest_is_xxh3_of_the_file(self):
        # XXH3's own value of the empty input with seed 0.
        assert content_digest(b"") == 0x2D06800538D394C2
        assert content_digest(b"a") != content_digest(b"b")

    def test_pixel_digest_tells_shapes_apart_but_not_memory_orders(self):
        pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
        assert pixel_digest(pixels) != pixel_digest(pixels.reshape(4, 2, 3))
        assert pixel_digest(pixels) == pixel_digest(np.asfortranarray(pixels))
        changed = pixels.copy()
        changed[1, 2, 0] ^= 1
        assert pixel_digest(pixels) != pixel_digest(changed)
        assert len(pixel_digest(pixels)) == 32
        with pytest.raises(UsageError, match="float64, expected uint8"):
            pixel_digest(pixels / 1)

    def test_pixel_digest_is_over_the_documented_bytes(self):
        import xxhash

        pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
        assert pixel_digest(pixels) == xxhash.xxh3_128_hexdigest(b"2x4x3\0" + bytes(range(24)))


class TestClassMap:
    @pytest.mark.parametrize(
        "text",
        [
            '{"cat": 3, "dog, big": 0}',
            'cat,3\n"dog, big",0\n',
            'folder,class\n\ncat, 3\n"dog, big",0',
            "folder\tclass\ncat\t3\r\ndog, big\t0\r\n",
            '\ufeffFolder,Class\ncat,3\n"dog, big",0\n',
        ],
    )
    def test_forms(self, tmp_path, text):
        path = tmp_path / "map"
        path.write_text(text, encoding="utf-8", newline="")
        assert read_class_map(path) == {"cat": 3, "dog, big": 0}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[1, 2]", "holds a JSON array, expected an object"),
            ('{"cat": 1', "is not valid JSON"),
            ('{"cat": 1, "cat": 2}', "names the folder 'cat' twice"),
            ('{"cat": "1"}', "'cat' the class \"1\", expected an integer, without quotes"),
            ('{"cat": " "}', "'cat' the class \" \", expected an integer, without quotes"),
            ('{"cat": 1.0}', "'cat' the class 1.0, expected an integer"),
            ('{"cat": true}', "'cat' the class true, expected an integer"),
            ("cat,1\ndog,2\ncat,1\n", "line 3 .* names the folder 'cat' again"),
            ("cat,1\ndog,tench, Tinca tinca\n", "line 2 .* in double quotes"),
            ("cat,\n", "line 1 .*its id or its name"),
            ("cat\n", "line 1 .* is 'cat', expected two columns"),
            ("", "is empty"),
            ("folder,class\n", "is empty"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path, text, message):
        path = tmp_path / "map.csv"
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            read_class_map(path)

    def test_files_that_cannot_be_read(self, tmp_path):
        with pytest.raises(NotFoundError, match="there is no class map"):
            read_class_map(tmp_path / "nowhere.json")
        with pytest.raises(UsageError, match="cannot read"):
            read_class_map(tmp_path)
        (tmp_path / "map.csv").write_bytes(b"caf\xe9,1\n")
        with pytest.raises(UsageError, match="not UTF-8"):
            read_class_map(tmp_path / "map.csv")


class TestTargets:
    NAMES = ("ant", "bee", "cat", "dog")

    def test_folders_named_as_a_subset_of_the_classes(self, tmp_path):
        source = lay_out(tmp_path, "dog/1.png", "bee/1.png", "bee/x/2.png")
        targets = resolve_targets(source, num_classes=4, class_names=self.NAMES)
        assert targets.dtype == np.int32
        assert dict(zip(source.keys, targets.tolist(), strict=True)) == {
            "bee/1.png": 1,
            "bee/x/2.png": 1,
            "dog/1.png": 3,
        }

    def test_folders_in_sorted_order_when_the_classes_have_no_names(self, tmp_path):
        source = lay_out(tmp_path, "b/1.png", "a/1.png", "c/1.png", "a/2.png")
        targets = resolve_targets(source, num_classes=3, class_names=None)
        assert targets.tolist() == [0, 0, 1, 2]
        with pytest.raises(
            MismatchError, match=r"3 class folders and the teacher 4 classes.*class map"
        ):
            resolve_targets(source, num_classes=4, class_names=None)

    def test_folders_named_otherwise_are_refused_even_when_as_many(self, tmp_path):
        source = lay_out(tmp_path, "ant/1.png", "bee/1.png", "cat/1.png", "wolf/1.png")
        with pytest.raises(
            MismatchError, match=r"1 of the 4 .*'wolf'.*a class map.*targets may be 'none'"
        ):
            resolve_targets(source, num_classes=4, class_names=self.NAMES)

    def test_a_name_of_two_classes_is_refused(self, tmp_path):
        source = lay_out(tmp_path, "crane/1.png", "ant/1.png")
        names = ("crane", "ant", "crane")
        with pytest.raises(MismatchError, match="'crane' is the name of more than one"):
            resolve_targets(source, num_classes=3, class_names=names)
        (tmp_path / "crane" / "1.png").unlink()
        only_ant = FolderSource(tmp_path)
        assert resolve_targets(only_ant, num_classes=3, class_names=names).tolist() == [1]

    def test_a_class_map_decides(self, tmp_path):
        source = lay_out(tmp_path, "ant/1.png", "wolf/1.png", "husky/1.png")
        class_map = {"ant": 2, "wolf": 3, "husky": 3, "unused": 99}
        targets = resolve_targets(
            source, num_classes=4, class_names=self.NAMES, class_map=class_map
        )
        assert dict(zip(source.keys, targets.tolist(), strict=True)) == {
            "ant/1.png": 2,
            "husky/1.png": 3,
            "wolf/1.png": 3,
        }

    def test_a_class_map_with_gaps_or_strange_ids_is_refused(self, tmp_path):
        source = lay_out(tmp_path, *(f"c{number}/1.png" for number in range(8)))
        with pytest.raises(MismatchError, match=r"lacks 7 of the 8 .*'c1', .*'c5', \.\.\.\)"):
            resolve_targets(source, num_classes=4, class_names=None, class_map={"c0": 0})
        for strange in (-1, 4):
            class_map = {**{f"c{number}": 0 for number in range(8)}, "c7": strange}
            with pytest.raises(UsageError, match=f"'c7' the class {strange}, expected 0 to 3"):
                resolve_targets(source, num_classes=4, class_names=None, class_map=class_map)

    @pytest.mark.parametrize("class_map", [None, {"a": 0}])
    def test_flat_and_mixed_folders_are_refused(self, tmp_path, class_map):
        flat = lay_out(tmp_path / "flat", "1.png")
        with pytest.raises(MismatchError, match=r"no class folders.*targets may be 'none'"):
            resolve_targets(flat, num_classes=1, class_names=None, class_map=class_map)
        mixed = lay_out(tmp_path / "mixed", "1.png", "a/1.png")
        with pytest.raises(MismatchError, match=r"'1\.png'.*targets may be 'none'"):
            resolve_targets(mixed, num_classes=1, class_names=None, class_map=class_map)

    def test_none_leaves_every_target_unknown(self, tmp_path):
        mixed = lay_out(tmp_path, "1.png", "a/1.png")
        targets = resolve_targets(mixed, num_classes=4, class_names=self.NAMES, targets="none")
        assert targets.tolist() == [-1, -1]
        assert targets.dtype == np.int32
        with pytest.raises(UsageError, match="leave out one"):
            resolve_targets(
                mixed, num_classes=4, class_names=None, class_map={"a": 0}, targets="none"
            )

    def test_requests_that_are_wrong_in_themselves(self, tmp_path):
        source = lay_out(tmp_path, "ant/1.png")
        with pytest.raises(UsageError, match="'guess', expected 'folders' or 'none'"):
            resolve_targets(source, num_classes=4, class_names=None, targets="guess")
        with pytest.raises(UsageError, match="4 class names and 5 classes"):
            resolve_targets(source, num_classes=5, class_names=self.NAMES)

    def test_imagenet_folders_under_an_imagenet_teacher(self, tmp_path):
        from labelstore.teachers.timm_networks import imagenet_class_names

        source = lay_out(tmp_path, "n01440764/1.png", "n15075141/1.png", "n02123045/1.png")
        targets = resolve_targets(source, num_classes=1000, class_names=imagenet_class_names())
        assert targets.tolist() == [0, 281, 999]


IMAGENET = SimpleNamespace(class_names=imagenet_class_names())


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "tench", "b": "n02012849", "c": 954}',
        "a,tench\nb,n02012849\nc,954\n",
        'folder,class\na,"tench, Tinca tinca"\nb,crane (134)\nc,banana\n',
        "a\tTinca tinca\nb\t134\nc\tn07753592\nunused\tno class\n",
    ],
)
def test_a_class_map_of_names(tmp_path, text):
    source = lay_out(tmp_path / "photos", "a/1.png", "b/1.png", "c/1.png")
    (tmp_path / "map").write_text(text)
    targets = resolve_targets(
        source,
        num_classes=1000,
        class_names=IMAGENET.class_names,
        class_map=read_class_map(tmp_path / "map"),
        called=names_of(IMAGENET),
    )
    assert targets.tolist() == [0, 134, 954]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bananna", "none of the teacher's 1000 classes.*did you mean 'banana'"),
        ("Tench", "did you mean 'tench'"),
        ("n07753593", "did you mean 'n07753592'"),
        ("1.5", "none of the teacher's 1000 classes: give the class's number or its name"),
        ("crane", r"the name of 2 .*134 \(n02012849\), 517 \(n03126707\)"),
        ("maillot", r"the name of 2 .*638 \(n03710637\), 639 \(n03710721\)"),
    ],
)
def test_names_of_no_class_or_of_several_are_refused(tmp_path, name, message):
    source = lay_out(tmp_path, "a/1.png")
    given = {"num_classes": 1000, "class_names": IMAGENET.class_names, "class_map": {"a": name}}
    with pytest.raises(UsageError, match=message) as caught:
        resolve_targets(source, **given, called=names_of(IMAGENET))
    assert caught.value.arguments == ("class_map",)


def test_names_of_a_teacher_of_ones_own(tmp_path):
    source = lay_out(tmp_path, "a/1.png", "b/1.png")
    given = {"num_classes": 3, "class_map": {"a": "dog", "b": "cat"}}
    named = resolve_targets(source, **given, class_names=("cat", "dog", "owl"))
    assert named.tolist() == [1, 0]
    with pytest.raises(UsageError, match=r"'dog', which is the name of 2 .* 1 \(dog\), 2 \(dog\)"):
        resolve_targets(source, **given, class_names=("cat", "dog", "dog"))
    with pytest.raises(UsageError, match="names of the teacher's classes are unknown"):
        resolve_targets(source, **given, class_names=None)


def test_class_map_file_to_targets(tmp_path):
    source = lay_out(tmp_path / "photos", "x/1.png", "y/1.png")
    (tmp_path / "map.json").write_text(json.dumps({"x": 7, "y": 5}))
    class_map = read_class_map(tmp_path / "map.json")
    targets = resolve_targets(source, num_classes=10, class_names=None, class_map=class_map)
    assert targets.tolist() == [7, 5]
