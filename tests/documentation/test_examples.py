"""The scripts of examples/: an own teacher's store, and students that were stopped and went on."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import labelstore
from examples import own_teacher, train
from labelstore.cli.main import main
from tests.support import commands
from tests.support.fixtures import single_thread

__all__ = ["single_thread"]

pytestmark = pytest.mark.usefixtures("single_thread")

EXAMPLES = Path(__file__).parents[2] / "examples"
CLASSES = {"amber": (200, 120, 40), "basil": (60, 180, 60), "cobalt": (60, 60, 200)}
PHOTOS, VIEWS, SIZE = 3, 3, 64
"""Photos of a class, views of a photo, and the side of the teacher's input."""


def write_photos(folder, count, seed):
    """Noise around a colour for each class, as PNG."""
    rng = np.random.default_rng(seed)
    for name, colour in CLASSES.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(colour + rng.normal(0, 30, (40, 52, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def environment(work):
    return {**os.environ, "OWN_TEACHER": str(work / "own.pt"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with photos/, validation/, own.pt: a teacher that was trained on them, own.zarr."""
    folder = tmp_path_factory.mktemp("examples")
    write_photos(folder / "photos", PHOTOS, seed=0)
    write_photos(folder / "validation", 2, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_teacher, "CHECKPOINT", folder / "own.pt")
        small = dataclasses.replace(own_teacher.PREPROCESSING, input_size=(SIZE, SIZE))
        patch.setattr(own_teacher, "PREPROCESSING", small)
        torch.manual_seed(0)
        own_teacher.fine_tune(str(folder / "photos"), epochs=1, weights=None, workers=0)
        # As in a shell: in the folder of the script, which knows its weights by the environment.
        patch.setenv("OWN_TEACHER", str(folder / "own.pt"))
        patch.chdir(EXAMPLES)
        patch.setattr(sys, "path", [*sys.path])
        command = ["generate", str(folder / "photos"), "--teacher", "python:own_teacher:teacher"]
        command += ["--views", str(VIEWS), "--size", str(SIZE), "-o", str(folder / "own.zarr")]
        # All classes, almost exactly.
        command += ["--top-k", "3", "--prior-size", "0", "--quantizer", "u16"]
        assert not main.main(command, "labelstore", standalone_mode=False)
        del sys.modules["own_teacher"]
    return folder


def test_a_store_of_the_own_teacher_holds_what_the_network_says(work, monkeypatch):
    store = labelstore.open(work / "own.zarr")
    assert store.manifest.class_names == tuple(CLASSES)
    assert store.targets.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    monkeypatch.setattr(own_teacher, "CHECKPOINT", work / "own.pt")
    model, fields = own_teacher.teacher()
    images, views = np.divmod(np.arange(store.num_images * VIEWS), VIEWS)
    geometry = store.views(images, views)
    crops = []
    for image, box, flip in zip(images, geometry.box.tolist(), geometry.flip, strict=True):
        top, left, height, width = box
        photo = Image.open(work / "photos" / store.keys[image])
        area = (left, top, left + width, top + height)
        crop = photo.crop(area).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        pixels = np.asarray(crop, dtype=np.float32) / 255
        pixels = pixels[:, ::-1] if flip else pixels
        crops.append((pixels - np.float32(fields["mean"])) / np.float32(fields["std"]))
    with torch.inference_mode():
        values = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        p = model.eval()(values).softmax(1).numpy()
    stored = store.read(images, views).recover().dense()
    np.testing.assert_allclose(stored, p, atol=1e-4)


def arguments(work, out, *more):
    return [
        *(str(work / "photos"), str(work / "own.zarr"), "--out", str(out)),
        *("--model", "test_resnet", "--size", "32", "--epochs", "2", "--batch-size", "2"),
        *("--views-per-image", "2", "--workers", "0", "--save-every", "2", *more),
    ]


def weights(out):
    return torch.load(out / "student.pt", weights_only=True)


def assert_same(out, other):
    ours, theirs = weights(out), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.fixture(scope="module")
def whole(work):
    """The folder of a run that nothing stopped."""
    torch.set_num_threads(1)
    train.main(arguments(work, work / "whole"))
    return work / "whole"


@pytest.mark.parametrize(
    "precision", ["fp32", "bf16", pytest.param("fp16", marks=pytest.mark.slow)]
)
def test_a_student_is_trained_and_validated(work, tmp_path, capsys, precision):
    validation = ("--validation", str(work / "validation"), "--precision", precision)
    train.main(arguments(work, tmp_path, *validation))
    told = capsys.readouterr().out
    assert "epoch 1, 8 of 9 photos: loss" in told
    assert "epoch 2: top-1 " in told
    assert "labels" in told
    student = timm.create_model("test_resnet", num_classes=3)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    student.load_state_dict(weights(tmp_path))
    assert any(not torch.equal(before[name], new) for name, new in student.state_dict().items())


def test_a_killed_run_goes_on_to_the_same_student(work, whole, tmp_path):
    """By SIGKILL in mid-epoch; what was done since the last checkpoint is done again."""
    run = commands.start(
        [sys.executable, EXAMPLES / "train.py", *arguments(work, tmp_path)],
        stdout=subprocess.PIPE,
        env=environment(work),
    )
    for line in run.stdout:
        if line.startswith("epoch 2, "):
            run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    run.stdout.close()
    assert not (tmp_path / "student.pt").exists()
    train.main(arguments(work, tmp_path))
    assert_same(tmp_path, whole)


def test_what_a_student_draws_is_the_same_after_a_stop(work, tmp_path, monkeypatch):
    monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, drop_rate=0.5))
    train.main(arguments(work, tmp_path / "whole"))
    tell = train.Training.tell

    def interrupted(self, text):
        tell(self, text)
        if text.startswith("epoch 1, 8 of 9"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train.Training, "tell", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train.main(arguments(work, tmp_path / "stopped"))
    train.main(arguments(work, tmp_path / "stopped"))
    assert_same(tmp_path / "stopped", tmp_path / "whole")


def test_a_run_does_not_go_on_with_other_options(work, whole):
    with pytest.raises(SystemExit, match=r"checkpoint.pt is of --lr 0.001"):
        train.main(arguments(work, whole, "--lr", "0.1"))
    with pytest.raises(labelstore.errors.MismatchError, match="views_per_image: 2 there, 1 here"):
        train.main(arguments(work, whole, "--views-per-image", "1"))


def test_validation_folders_are_those_of_the_photos(work, tmp_path):
    write_photos(tmp_path / "validation", 1, seed=2)
    (tmp_path / "validation" / "amber").rename(tmp_path / "validation" / "apricot")
    with pytest.raises(SystemExit, match="'apricot'"):
        train.main(arguments(work, tmp_path / "run", "--validation", str(tmp_path / "validation")))


def torchrun(work, out, *more):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    return [*command, "2", str(EXAMPLES / "train.py"), *arguments(work, out, *more)]


@pytest.mark.slow
def test_two_processes_by_torchrun(work, tmp_path):
    done = subprocess.run(
        torchrun(work, tmp_path, "--validation", str(work / "validation")),
        env=environment(work),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # Nine photos, two a step and process; one of the two tells it.
    assert done.stdout.count("epoch 1, 8 of 9 photos: loss") == 1
    assert done.stdout.count("epoch 2: top-1 ") == 1
    # What both say of their shares is what the student that is saved says of all.
    options = {"photos": work / "photos", "store": work / "own.zarr", "out": tmp_path}
    options |= {"validation": work / "validation", "model": "test_resnet", "size": 32, "epochs": 2}
    options |= {"batch_size": 2, "views_per_image": 2, "lr": 1e-3, "precision": "fp32"}
    alone = train.Training(argparse.Namespace(**options, workers=0), 1, 0, torch.device("cpu"))
    assert f"epoch 2: top-1 {alone.top_1(alone.validation_set()):.2%}" in done.stdout
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


@pytest.mark.slow
def test_two_processes_that_are_stopped_go_on_to_the_same_student(work, tmp_path):
    """By SIGTERM to torchrun, as schedulers do."""
    options = {"env": environment(work), "text": True}
    subprocess.run(torchrun(work, tmp_path / "whole", "--epochs", "20"), check=True, **options)
    command = torchrun(work, tmp_path / "stopped", "--epochs", "20")
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as run:
        for line in run.stdout:
            if line.startswith("epoch 2, "):
                run.terminate()
    assert not (tmp_path / "stopped" / "student.pt").exists()
    subprocess.run(command, check=True, **options)
    assert_same(tmp_path / "stopped", tmp_path / "whole")
