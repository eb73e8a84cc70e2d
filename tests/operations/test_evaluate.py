"""Plain accuracy: crops against Pillow's own, counts against a plain loop, the real command."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from labelstore.errors import SourceError, UsageError
from labelstore.images.decoding import decode
from labelstore.images.preprocessing import Preprocessing
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.evaluate import central_box, evaluate, wilson_interval
from labelstore.statistics.calibration import calibration_of
from labelstore.teachers.teacher import Teacher
from tests.support import commands
from tests.support.colours import FACTORY

COLOURS = ((220, 30, 30), (30, 220, 30), (30, 30, 220))


@pytest.fixture
def photos(tmp_path):
    """30 photos whose middle has the colour of their class; two have another class's."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for number in range(30):
        truth = number % 3
        shown = (truth + 1) % 3 if number in (4, 20) else truth
        height, width = int(rng.integers(40, 90)), int(rng.integers(40, 90))
        pixels = rng.integers(0, 60, (height, width, 3)) + np.array(COLOURS[shown]) * 3 // 4
        # The edges are of no class: only a central crop is right.
        pixels[: height // 8], pixels[:, : width // 8] = 255, 255
        name = ("red", "green", "blue")[truth]
        (folder / name).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.minimum(pixels, 255).astype(np.uint8))
        image.save(folder / name / f"{number:02}.png")
    return folder


def teacher(**changes):
    scope = {}
    exec(FACTORY, scope)
    model, fields = scope["colour"]()
    names = fields.pop("class_names")
    preprocessing = Preprocessing(**{**fields, **changes})
    return Teacher(model, preprocessing, spec="colour", class_names=names, device="cpu")


def targets_of(source):
    return np.array([("red", "green", "blue").index(key.split("/")[0]) for key in source.keys])


def test_counts_are_those_of_a_plain_loop(photos):
    source, judge = FolderSource(photos), teacher(crop_share=0.7)
    targets = targets_of(source)
    right, confidence = 0, []
    for place, key in enumerate(source.keys):
        photo = decode(source.read(place), key)
        scale = 0.7 * min(photo.height / 32, photo.width / 48)
        tall, wide = round(32 * scale), round(48 * scale)
        top, left = (photo.height - tall) // 2, (photo.width - wide) // 2
        crop = photo.crop((left, top, left + wide, top + tall)).resize((48, 32), Image.BICUBIC)
        x = (torch.tensor(np.asarray(crop)).permute(2, 0, 1).double() / 255 - 0.5) / 0.5
        probs = torch.softmax(4 * x.mean((1, 2)), 0)
        right += int(probs.argmax()) == targets[place]
        confidence.append(float(probs.max()))
    for batch_size, workers in ((64, 1), (7, 3)):
        report = evaluate(source, targets, judge, batch_size=batch_size, workers=workers)
        assert (report.images, report.unknown, report.unreadable) == (30, 0, ())
        assert report.top1 == right / 30 == 28 / 30
        assert (report.n, report.top_n) == (3, 1.0)
        assert report.confidence == pytest.approx(np.mean(confidence), abs=1e-5)


def test_calibration_is_that_of_the_logits_of_all_images_or_of_some(photos, monkeypatch):
    source, judge = FolderSource(photos), teacher()
    targets = targets_of(source)
    logits = []
    plain = judge.logits
    monkeypatch.setattr(judge, "logits", lambda pixels: logits.append(plain(pixels)) or logits[-1])
    report = evaluate(source, targets, judge, batch_size=7)
    whole = torch.cat(logits).numpy()
    assert report.calibration == calibration_of(whole, targets)
    assert report.to_json()["calibration"]["temperature"] == report.calibration.temperature
    # Two photos show another class: less than sure is right.
    assert report.calibration.mended_nll < report.calibration.nll
    monkeypatch.setattr("labelstore.operations.evaluate.CALIBRATION_LOGITS", 24)
    some = evaluate(source, targets, judge, batch_size=7)
    assert some.calibration == calibration_of(whole[::4], targets[::4])
    assert (some.images, some.calibration.images) == (30, 8)


def test_places_are_those_of_logits_where_probabilities_are_all_zero(photos, monkeypatch):
    """Far below the largest logit, probabilities of other classes differ no more."""
    source, judge = FolderSource(photos), teacher()
    logits = torch.tensor([[0.0, -900, -200, -300, -400, -500, -600]])
    monkeypatch.setattr(judge, "logits", lambda pixels: logits.repeat(len(pixels), 1))
    monkeypatch.setattr(judge, "num_classes", 7)
    for truth, among in ((1, 0.0), (2, 1.0), (5, 1.0), (6, 0.0)):
        report = evaluate(source, np.full(30, truth), judge)
        assert (report.top1, report.n, report.top_n) == (0.0, 5, among)


def test_wrong_classes_show(photos):
    source = FolderSource(photos)
    report = evaluate(source, (targets_of(source) + 1) % 3, teacher())
    assert report.top1 == 2 / 30


def test_what_cannot_count_is_left_out_and_told(photos):
    source = FolderSource(photos)
    targets = targets_of(source)
    (photos / source.keys[5]).write_bytes(b"no picture")
    targets[10:13] = -1
    told = []
    report = evaluate(source, targets, teacher(), tell=lambda images, _: told.append(images))
    assert (report.images, report.unknown) == (26, 3)
    assert report.unreadable == (source.keys[5],)
    assert sum(told) == 27
    some = evaluate(source, targets, teacher(), images=9)
    assert some.images + len(some.unreadable) == 9
    with pytest.raises(UsageError, match="none of the 30 images"):
        evaluate(source, np.full(30, -1), teacher())
    for key in source.keys:
        (photos / key).write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"none of the 30 images .* could be decoded"):
        evaluate(source, targets_of(source), teacher())


@pytest.mark.parametrize(
    ("width", "height", "size", "share", "expected"),
    [
        (500, 375, (224, 224), 0.875, (23, 86, 328, 328)),
        (375, 500, (224, 224), 1.0, (62, 0, 375, 375)),
        (100, 100, (32, 48), 1.0, (16, 0, 67, 100)),
        (1, 3, (224, 224), 0.1, (1, 0, 1, 1)),
    ],
)
def test_central_boxes(width, height, size, share, expected):
    assert central_box(width, height, size, share) == expected


def test_wilsons_interval():
    """Known answers, as in Newcombe (Statistics in Medicine 1998), table I."""
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1 / 29, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_the_command(photos, tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    command = [sys.executable, "-m", "labelstore", "evaluate", str(photos)]
    command += ["--teacher", "python:mine:colour"]
    done = commands.run([*command, "--json"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["top1"] == 28 / 30
    # The temperature is that of all that is told but of the one that fits.
    best = told["calibration"]["temperature"]
    done = commands.run([*command, "--json", "--temperature", repr(best)], cwd=tmp_path)
    mended = json.loads(done.stdout)
    assert (mended["temperature"], mended["top1"]) == (best, told["top1"])
    assert mended["confidence"] < told["confidence"]
    for figure in ("expected_calibration_error", "nll"):
        cooled = "mended_error" if figure != "nll" else "mended_nll"
        assert mended["calibration"][figure] == told["calibration"][cooled]
        assert mended["calibration"][cooled] == told["calibration"][cooled]
    assert mended["calibration"]["temperature"] == best
    done = commands.run([*command, "--temperature", "0"], cwd=tmp_path)
    assert (done.returncode, "expected a positive number" in done.stderr) == (2, True)
    assert told["top1_interval"][0] < 28 / 30 < told["top1_interval"][1]
    done = commands.run(command, cwd=tmp_path)
    assert "top-1 93.33%" in done.stderr
    assert "chance is 33.33%" in done.stderr
    assert "expected calibration error" in done.stderr
    assert "at temperature" in done.stderr
    done = commands.run([*command, "--class-map", "none.json"], cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
