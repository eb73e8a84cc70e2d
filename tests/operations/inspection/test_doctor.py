"""``labelstore doctor``: what came apart is named, with its cause; what did not is not."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import unicodedata
from importlib import resources

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import labelstore
from labelstore.cli.main import main
from labelstore.format.blocks import BlockData
from labelstore.format.manifest import Manifest, fingerprint
from labelstore.images.decoding import allow_pixels
from labelstore.images.ground_truth.targets import resolve_targets
from labelstore.images.photo_file import read_photo
from labelstore.operations.inspection.doctor import diagnose
from labelstore.producer.pixel_probe import installed_versions, make_probe
from labelstore.store.writer import StoreWriter
from labelstore.views.law import ViewLaw
from tests.operations.inspection.test_check import packed
from tests.support import commands
from tests.support.faulty_photos import ORIENTATION, clean, faulty, picture
from tests.support.stores import distributions, top_of, written

CLASSES = ("cat", "dog", "owl")

TEACHER = """
import torch

class Colours(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 3)
    def forward(self, x):
        return self.layer(x.mean((2, 3)))

def colours():
    return Colours(), {"input_size": (16, 16), "mean": (0.5,) * 3, "std": (0.25,) * 3,
                       "interpolation": "bilinear", "class_names": ["cat", "dog", "owl"]}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Photos in three forms, and the store that a real run made of each."""
    place = tmp_path_factory.mktemp("made")
    photos = clean(place / "photos")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture(70).save(photos / "cat" / "turned.jpg", exif=exif)
    (photos / "dog" / "broken.jpg").write_bytes(b"no photo")
    (place / "mine.py").write_text(TEACHER)
    for form in ("folder", "tar", "parquet"):
        done = commands.run(
            [
                *(sys.executable, "-m", "labelstore", "generate", packed(photos, form, place)),
                *("--teacher", "python:mine:colours", "--views", "4", "--on-error", "skip"),
                *("-o", f"{form}.zarr", "--quiet"),
            ],
            cwd=place,
        )
        assert done.returncode == 3, done.stderr
    return place


@pytest.fixture
def photos(made, tmp_path):
    """A copy of the photos, to be damaged."""
    shutil.copytree(made / "photos", tmp_path / "photos")
    return tmp_path / "photos"


def run(*arguments, width=100):
    return CliRunner().invoke(
        main, ["doctor", *map(str, arguments)], env={"COLUMNS": str(width)}, catch_exceptions=False
    )


def valid(document):
    text = resources.files("labelstore.schemas").joinpath("doctor.schema.json").read_text()
    jsonschema.Draft202012Validator(json.loads(text)).validate(document)
    return document


def named(report):
    """Names of each kind and cause of what is wrong, or worth knowing."""
    return {
        (f["kind"], f["cause"]) if f["cause"] else f["kind"]: [n["name"] for n in f["first"]]
        for f in report["findings"]
        # Left out by the run that made the store.
        if f["kind"] != "without-labels"
    }


def diagnosis(made, photos, **options):
    source = labelstore.open_source(photos)
    report = diagnose(made / "folder.zarr", source, workers=2, **options)
    assert report["healthy"] == all(f["weight"] == "note" for f in report["findings"])
    return valid(report)


def details(report):
    return {n["name"]: n["detail"] for f in report["findings"] for n in f["first"]}


@pytest.mark.parametrize("form", ["folder", "tar", "parquet"])
def test_nothing_is_found_of_the_source_that_a_store_was_made_from(made, form):
    source = made / ("photos" if form == "folder" else f"photos.{form}")
    done = run(made / f"{form}.zarr", "--photos", source, "--json")
    assert done.exit_code == 0, done.output
    report = valid(json.loads(done.stdout))
    # One photo was left out, and cannot be decoded still.
    assert named(report) == {}
    assert [f["kind"] for f in report["findings"]] == ["without-labels"]
    assert report["compared"] == {"digest": 13, "size": 0, "unknown": 0}
    assert report["probe"] == {"views": 8, "differing": 0}
    assert (report["store"]["images"], report["store"]["labelled"]) == (14, 13)
    assert (
        "The photos are those of the store" in run(made / f"{form}.zarr", "--photos", source).stdout
    )


def test_shards_that_were_packed_from_the_folder(made):
    report = diagnosis(made, made / "photos.tar")
    assert report["healthy"]
    assert set(named(report)) == {"keys-without-suffix"}
    assert report["compared"]["digest"] == 13
    assert report["probe"] == {"views": 8, "differing": 0}


def test_missing_and_extra(made, photos):
    (photos / "cat" / "01.jpg").unlink()
    picture(80).save(photos / "owl" / "new.png")
    report = diagnosis(made, photos)
    assert named(report) == {"missing": ["cat/01.jpg"], "extra": ["owl/new.png"]}
    assert not report["healthy"]
    # New photos alone are no fault.
    shutil.copy(made / "photos" / "cat" / "01.jpg", photos / "cat" / "01.jpg")
    report = diagnosis(made, photos)
    assert named(report) == {"extra": ["owl/new.png"]}
    assert report["healthy"]


def test_names_that_changed(made, photos):
    (photos / "cat" / "00.jpg").rename(photos / "cat" / "00.JPG")
    (photos / "cat" / "01.jpg").rename(photos / "dog" / "01.jpg")
    (photos / "cat" / "02.jpg").rename(photos / "cat" / "kitten.jpg")
    Image.open(photos / "cat" / "03.jpg").save(photos / "cat" / "03.png")
    (photos / "cat" / "03.jpg").unlink()
    report = diagnosis(made, photos)
    assert named(report) == {
        ("missing", "case"): ["cat/00.jpg"],
        ("missing", "folder"): ["cat/01.jpg"],
        ("missing", "renamed"): ["cat/02.jpg"],
        ("missing", "extension"): ["cat/03.jpg"],
    }
    assert details(report)["cat/00.jpg"] == "now cat/00.JPG, the same file"
    assert details(report)["cat/02.jpg"] == "now cat/kitten.jpg, the same file"
    assert details(report)["cat/03.jpg"] == "now cat/03.png, another file"


def test_a_renamed_folder(made, photos):
    (photos / "owl").rename(photos / "uhu")
    report = diagnosis(made, photos)
    assert named(report)["missing", "folder"] == [f"owl/2{number}.jpg" for number in range(4)]
    assert details(report)["owl/20.jpg"] == "now uhu/20.jpg, the same file"
    # The folder's new name is none of the store's classes.
    assert "unknown-classes" in named(report)


def test_names_of_another_normal_form(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    clean(tmp_path / "nfc", (composed, "tea"))
    clean(tmp_path / "nfd", (apart, "tea"))
    path = stored(tmp_path / "s.zarr", tmp_path / "nfc", (composed, "tea"))
    report = diagnose(path, labelstore.open_source(tmp_path / "nfd"))
    assert named(valid(report))["missing", "normal-form"] == [
        f"{composed}/0{n}.jpg" for n in range(4)
    ]
    assert report["compared"]["digest"] == 4


@pytest.mark.parametrize("above", [True, False])
def test_the_folder_above_or_below(made, tmp_path, above):
    if above:
        shutil.copytree(made / "photos", tmp_path / "all" / "train")
        report = diagnosis(made, tmp_path / "all")
        mend = f"give {tmp_path / 'all'}/train"
    else:
        shutil.copytree(made / "photos", tmp_path / "photos")
        clean(tmp_path / "one" / "train")
        path = stored(tmp_path / "s.zarr", tmp_path / "one", ("train",))
        report = diagnose(path, labelstore.open_source(tmp_path / "one" / "train"))
        mend = "give the folder that the store was made from"
    (finding,) = (f for f in report["findings"] if f["kind"] == "missing")
    assert finding["cause"] == "root"
    assert finding["mend"] == mend
    assert finding["count"] >= 12


def test_exchanged_photos_of_one_size(made, photos, tmp_path):
    """The fault that nothing else shows: sizes fit, and every label is of another photo."""
    cat, dog = photos / "cat" / "00.jpg", photos / "dog" / "10.jpg"
    with Image.open(cat) as one, Image.open(dog) as other:
        assert one.size == other.size
    cat.rename(tmp_path / "aside.jpg")
    dog.rename(cat)
    (tmp_path / "aside.jpg").rename(dog)
    report = diagnosis(made, photos)
    assert named(report) == {("other-file", "exchanged"): ["cat/00.jpg", "dog/10.jpg"]}
    assert details(report)["cat/00.jpg"] == "dog/10.jpg's file"


def test_changed_files(made, photos):
    encoded, scaled = photos / "cat" / "00.jpg", photos / "cat" / "01.jpg"
    Image.open(encoded).save(encoded, quality=50)
    large = Image.open(scaled)
    large.resize((large.width // 2, large.height // 2)).save(scaled)
    picture(9, 31, 77).save(photos / "cat" / "02.jpg")
    whole = (photos / "dog" / "12.jpg").read_bytes()
    (photos / "dog" / "12.jpg").write_bytes(whole[: len(whole) // 2])
    report = diagnosis(made, photos)
    assert named(report) == {
        "other-file": ["cat/00.jpg"],
        ("other-size", "scaled"): ["cat/01.jpg"],
        "other-size": ["cat/02.jpg"],
        "undecodable": ["dog/12.jpg"],
    }
    assert details(report)["cat/02.jpg"] == "31 x 77, labelled was 62 x 50"


def test_files_that_this_machine_does_not_decode(made, photos, monkeypatch):
    """As by a library that lacks their format: here by a lower bound on pixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    allow_pixels(60 * 50)
    report = diagnosis(made, photos)
    assert report["compared"]["digest"] == 3
    (finding,) = (f for f in report["findings"] if f["weight"] == "error")
    assert (finding["kind"], finding["cause"], finding["count"]) == ("undecodable", "decoder", 10)
    assert finding["arguments"] == ["max_pixels"]


def test_photos_that_are_copies_of_one_another(tmp_path):
    """One digest belongs to two images: neither is taken for the other's."""
    clean(tmp_path / "photos")
    copy = tmp_path / "photos" / "owl" / "copy.jpg"
    shutil.copy(tmp_path / "photos" / "cat" / "00.jpg", copy)
    path = stored(tmp_path / "s.zarr", tmp_path / "photos", CLASSES)
    source = labelstore.open_source(tmp_path / "photos")
    assert diagnose(path, source)["findings"] == []
    copy.rename(tmp_path / "photos" / "dog" / "other.jpg")
    report = diagnose(path, labelstore.open_source(tmp_path / "photos"))
    assert named(report) == {("missing", "renamed"): ["owl/copy.jpg"]}


def test_a_lost_exif_orientation(made, photos):
    turned = photos / "cat" / "turned.jpg"
    Image.open(turned).save(turned, exif=b"")
    report = diagnosis(made, photos)
    assert named(report) == {("other-size", "turned"): ["cat/turned.jpg"]}


def test_what_cannot_be_read_is_not_known(made, photos):
    (photos / "cat" / "00.jpg").unlink()
    os.mkfifo(photos / "cat" / "00.jpg")
    (photos / "cat" / "01.jpg").unlink()
    (photos / "cat" / "01.jpg").mkdir()
    source = labelstore.open_source(photos)
    (photos / "cat" / "02.jpg").unlink()
    report = valid(diagnose(made / "folder.zarr", source))
    assert named(report) == {
        "unreadable": ["cat/00.jpg", "cat/02.jpg"],
        "missing": ["cat/01.jpg"],
    }
    assert details(report)["cat/00.jpg"] == "it is no file, but a pipe"


def test_nothing_else_is_claimed_where_photos_cannot_be_read(made, photos):
    (photos / "cat" / "00.jpg").unlink()
    os.mkfifo(photos / "cat" / "00.jpg")
    done = run(made / "folder.zarr", "--photos", photos)
    assert done.exit_code == 1
    assert "of the others nothing is known" in done.stdout


def test_photos_that_are_not_there_at_all(made, tmp_path):
    (tmp_path / "unmounted").mkdir()
    for place in ("unmounted", "gone", "x" * 300, "unmounted/*.tar"):
        done = run(made / "folder.zarr", "--photos", tmp_path / place, "--json")
        assert done.exit_code == 1
        error = json.loads(done.stdout)["error"]
        assert error["kind"] in ("source", "not-found")
        assert "nothing is known of the photos" in error["message"]
        assert "Traceback" not in done.output


def test_generate_leads_to_check(made, tmp_path):
    done = commands.run(
        [
            *(sys.executable, "-m", "labelstore", "generate", made / "photos", "--views", "1"),
            *("--teacher", "python:mine:colours", "-o", tmp_path / "s.zarr"),
        ],
        cwd=made,
    )
    assert done.returncode == 1
    assert "dog/broken.jpg: its 8 bytes are of no image format" in done.stderr
    assert "labelstore check names all such" in done.stderr
    help_page = " ".join(CliRunner().invoke(main, ["generate", "--help"]).output.split())
    assert "labelstore check SOURCE decodes every image once" in help_page


def test_generate_leaves_out_what_check_says(made, tmp_path):
    photos = faulty(tmp_path / "photos")
    for name in ("pipe.jpg", "gone.jpg"):
        (photos / "owl" / name).unlink()
    shutil.rmtree(photos / "Cat")
    checked = CliRunner().invoke(main, ["check", str(photos), "--json"])
    assert checked.exit_code == 1
    report = json.loads(checked.stdout)
    assert report["stops"] == []
    done = commands.run(
        [
            *(sys.executable, "-m", "labelstore", "generate", photos, "--views", "1", "--quiet"),
            *("--teacher", "python:mine:colours", "-o", tmp_path / "s.zarr"),
            *("--on-error", "skip"),
        ],
        cwd=made,
    )
    assert done.returncode == 3, done.stderr
    skipped = [f for f in report["findings"] if f["weight"] == "skipped"]
    names = {named["name"] for finding in skipped for named in finding["first"]}
    assert len(names) == 5
    assert names == set(labelstore.open(tmp_path / "s.zarr").unreadable())


def test_a_photo_that_was_mended_can_be_labelled(made, photos):
    picture(5).save(photos / "dog" / "broken.jpg")
    report = diagnosis(made, photos)
    assert named(report) == {"mended": ["dog/broken.jpg"]}
    assert report["healthy"]
    (photos / "dog" / "broken.jpg").unlink()
    assert named(diagnosis(made, photos)) == {"missing-unlabelled": ["dog/broken.jpg"]}


def stored(path, photos, names, targets=None, blocks=None, **changes):
    """A store of labels that no teacher gave, with the digests, sizes and probe of real photos.

    Args:
        names: of the classes. targets: ground truth, by the folders when None.
        blocks: that are committed; all when None.
        changes: of the manifest.
    """
    source = labelstore.open_source(photos)
    files = [read_photo(source, index) for index in range(len(source))]
    if targets is None:
        targets = resolve_targets(source, num_classes=len(names), class_names=names)
    indices, probs = top_of(distributions(len(source), 2, len(names)), 1)
    law = ViewLaw(3)
    teacher = {"spec": "x", "checkpoint": "y", "untrained": False, "weights_digest": "0" * 32}
    teacher |= {"input_size": [16, 16], "mean": [0.5] * 3, "std": [0.5] * 3}
    teacher |= {"interpolation": "bilinear", "device": "cpu", "precision": "fp32"}
    manifest = Manifest(
        num_images=len(source),
        num_views=2,
        num_classes=len(names),
        k=1,
        fingerprint=fingerprint(source.keys, targets),
        law=law,
        block_images=4,
        group_views=2,
        class_names=tuple(names),
        teacher=teacher,
        probe=make_probe(source, ((16, 16), "bilinear"), law, 2),
        producer=installed_versions(),
    )
    manifest = dataclasses.replace(manifest, **changes)
    with StoreWriter(path, manifest, source.keys, targets) as writer:
        for block in writer.pending_blocks():
            rows = manifest.block_slice(block)
            if blocks is None or block in blocks:
                data = BlockData(
                    indices[rows],
                    probs[rows],
                    widths=np.array([file.photo.width for file in files[rows]]),
                    heights=np.array([file.photo.height for file in files[rows]]),
                    digests=np.array([file.digest for file in files[rows]], dtype=np.uint64),
                )
                writer.write_block(block, data)
    return path


def test_ground_truth_of_other_numbers(tmp_path):
    """Class names that changed their places: nothing else tells."""
    clean(tmp_path / "photos")
    source = labelstore.open_source(tmp_path / "photos")
    targets = resolve_targets(source, num_classes=3, class_names=CLASSES)
    swapped = ("dog", "cat", "owl")
    path = stored(tmp_path / "s.zarr", tmp_path / "photos", swapped, targets)
    report = valid(diagnose(path, source))
    assert named(report) == {"class-order": ["cat", "dog"]}
    assert details(report)["cat"] == "0 (dog) in the store, 1 (cat) by the source"
    assert not report["healthy"]
    # With the map that it was made by, all is as it was.
    given = tmp_path / "map.json"
    given.write_text(json.dumps({"cat": 0, "dog": 1, "owl": 2}))
    assert run(path, "--photos", tmp_path / "photos", "--class-map", given).exit_code == 0
    given.write_text(json.dumps({"cat": 0, "dog": 1, "owl": 3}))
    assert run(path, "--photos", tmp_path / "photos", "--class-map", given).exit_code == 2


def test_single_photos_of_another_class(made, tmp_path):
    """Labels in a table may change one by one."""
    import pyarrow.parquet as pq

    table = pq.read_table(made / "photos.parquet")
    labels = table["label"].to_pylist()
    keys = [row["path"] for row in table["image"].to_pylist()]
    labels[keys.index("cat/01.jpg")] = "owl"
    table = table.set_column(1, "label", [labels])
    pq.write_table(table, tmp_path / "photos.parquet")
    source = labelstore.open_source(tmp_path / "photos.parquet")
    report = valid(diagnose(made / "parquet.zarr", source))
    assert named(report) == {"class": ["cat/01.jpg"]}
    assert details(report)["cat/01.jpg"] == "0 (cat) in the store, 2 (owl) by the source"


def test_classes_that_cannot_be_told(made, photos):
    picture(90).save(photos / "loose.jpg")
    report = diagnosis(made, photos)
    assert set(named(report)) == {"extra", "unknown-classes"}
    assert report["healthy"]


def test_pixels_and_versions_of_another_library(tmp_path):
    clean(tmp_path / "photos")
    source = labelstore.open_source(tmp_path / "photos")
    probe = [dict(entry) for entry in make_probe(source, ((16, 16), "bilinear"), ViewLaw(3), 2)]
    probe[0]["digest"] = "0" * 32
    old = {**installed_versions(), "Pillow": "9.0.0"}
    path = stored(
        tmp_path / "s.zarr", tmp_path / "photos", CLASSES, probe=tuple(probe), producer=old
    )
    report = valid(diagnose(path, source))
    assert named(report) == {"pixels": [probe[0]["key"]], "versions": ["Pillow"]}
    assert report["probe"] == {"views": 8, "differing": 1}
    assert "install Pillow 9.0.0" in report["findings"][0]["mend"]
    assert not report["healthy"]
    # Another version that makes the same pixels is a note.
    path = stored(tmp_path / "t.zarr", tmp_path / "photos", CLASSES, producer=old)
    report = diagnose(path, source)
    assert named(report) == {"versions": ["Pillow"]}
    assert report["healthy"]


def test_a_store_that_is_still_being_made(tmp_path):
    clean(tmp_path / "photos")
    path = stored(tmp_path / "s.zarr", tmp_path / "photos", CLASSES, blocks=[0, 2])
    report = valid(diagnose(path, labelstore.open_source(tmp_path / "photos")))
    assert named(report) == {"incomplete": [f"dog/1{number}.jpg" for number in range(4)]}
    assert report["compared"]["digest"] == 8
    assert report["healthy"]


def test_a_store_that_knows_only_sizes(tmp_path):
    clean(tmp_path / "photos")
    keys = labelstore.open_source(tmp_path / "photos").keys
    sizes = {"widths": [60, 61, 62, 63] * 3, "heights": [50] * 12}
    written(tmp_path / "s.zarr", images=12, keys=keys, targets=[-1] * 12, **sizes)
    report = valid(diagnose(tmp_path / "s.zarr", labelstore.open_source(tmp_path / "photos")))
    assert report["compared"] == {"digest": 0, "size": 12, "unknown": 0}
    assert report["findings"] == []
    written(tmp_path / "t.zarr", images=12, keys=keys, targets=[-1] * 12, law=None)
    report = valid(diagnose(tmp_path / "t.zarr", labelstore.open_source(tmp_path / "photos")))
    assert named(report) == {"unknown-photos": []}


def test_a_damaged_store_is_an_error(made, tmp_path):
    shutil.copytree(made / "folder.zarr", tmp_path / "s.zarr")
    for file in (tmp_path / "s.zarr").rglob("*"):
        if file.is_file() and "commits" in file.as_posix():
            file.write_bytes(b"damaged")
    done = run(tmp_path / "s.zarr", "--photos", made / "photos")
    assert done.exit_code == 1
    assert "Traceback" not in done.output


@pytest.mark.parametrize("width", [40, 80, 120])
def test_it_is_readable_at_every_width(made, photos, width, monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(Console, "width", width)
    (photos / "cat" / "01.jpg").unlink()
    picture(3).save(photos / "cat" / "\x1b[31m[red].jpg")
    done = run(made / "folder.zarr", "--photos", photos, width=width)
    assert done.exit_code == 1
    assert max(map(len, done.stdout.splitlines())) <= width
    assert "missing: 1 photo is missing" in done.stdout
    assert "\x1b" not in done.stdout
