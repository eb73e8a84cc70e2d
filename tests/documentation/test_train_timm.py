"""examples/train_timm.py on real photos: alone, stopped and gone on, and with two ranks."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from labelstore.errors import UsageError
from labelstore.torch.timm import StoredDistillationTask
from tests.support.fixtures import single_thread, store, work

pytest.importorskip("timm.task.evaluator", reason="the script needs timm 1.0.31")
from examples import train_timm

__all__ = ["single_thread", "store", "work"]

pytestmark = pytest.mark.usefixtures("single_thread")

SCRIPT = Path(train_timm.__file__)


def arguments(work, out, *more):
    return [
        *(str(work.photos), str(work.store), "--out", str(out), "--val", str(work.photos)),
        *("--model", "test_resnet", "--size", "32", "--epochs", "2", "--batch-size", "3"),
        *("--workers", "0", "--save-every", "2", "--ema", "0.9", *more),
    ]


def views_of_each_step(monkeypatch):
    """Filled as steps are made: the (image, view) pairs of each."""
    steps = []
    forward = StoredDistillationTask.forward

    def watched(self, images, target):
        steps.append(list(zip(target.image.tolist(), target.view.tolist(), strict=True)))
        return forward(self, images, target)

    monkeypatch.setattr(StoredDistillationTask, "forward", watched)
    return steps


def rows(out):
    with (out / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(out, other):
    """The same students, averages and figures of each epoch."""
    ours, theirs = (
        torch.load(folder / "resume.pth.tar", weights_only=True) for folder in (out, other)
    )
    for part in ("state_dict", "state_dict_ema"):
        assert ours[part].keys() == theirs[part].keys()
        for name, tensor in ours[part].items():
            assert torch.equal(tensor, theirs[part][name]), name
    assert ours["task_state"] == theirs["task_state"]
    measured = ("epoch", "train_loss", "eval_top1", "eval_ema_loss", "lr")
    figures = [[[row[name] for name in measured] for row in rows(place)] for place in (out, other)]
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_a_run_that_stops_in_mid_epoch_goes_on_with_the_same_views(
    work, tmp_path, monkeypatch, capsys
):
    steps = views_of_each_step(monkeypatch)
    train_timm.main(arguments(work, tmp_path / "whole"))
    whole = [*steps]
    told = capsys.readouterr().out
    assert "epoch 1: loss " in told
    assert "images_per_second" in told
    assert "labels_percent" in told
    assert [row["epoch"] for row in rows(tmp_path / "whole")] == ["0", "1"]
    student = timm.create_model(
        "test_resnet", num_classes=20, checkpoint_path=str(tmp_path / "whole" / "last.pth.tar")
    )
    trained = torch.load(tmp_path / "whole" / "resume.pth.tar", weights_only=True)["state_dict_ema"]
    assert all(torch.equal(trained[name], x) for name, x in student.state_dict().items())

    save, saved = train_timm.Training.save, []

    def interrupted(self, seen):
        save(self, seen)
        saved.append((self.epoch, seen))
        if saved[-1] == (1, 12):
            raise KeyboardInterrupt

    steps.clear()
    with monkeypatch.context() as patch:
        patch.setattr(train_timm.Training, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_timm.main(arguments(work, tmp_path / "stopped"))
    assert 0 < len(steps) < len(whole)
    train_timm.main(arguments(work, tmp_path / "stopped"))
    assert steps == whole
    assert_same(tmp_path / "stopped", tmp_path / "whole")
    with pytest.raises(SystemExit, match="is of a run with"):
        train_timm.main(arguments(work, tmp_path / "stopped", "--lr", "0.1"))


def test_validation_folders_are_those_of_the_photos(work, tmp_path):
    validation = tmp_path / "validation"
    shutil.copytree(work.photos / "a", validation / "apricot")
    with pytest.raises(UsageError, match="'apricot'"):
        train_timm.main(arguments(work, tmp_path / "run", "--val", str(validation)))


@pytest.mark.slow
def test_two_ranks_that_are_killed_go_on_to_the_same_student(work, tmp_path):
    """By SIGKILL of torchrun's ranks, in mid-epoch; mixed precision, workers."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = {"env": environment, "text": True, "capture_output": True}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    more = ("--amp", "bfloat16", "--workers", "1", "--batch-size", "2")
    kill = tmp_path / "kill.py"
    kill.write_text(f"""
import os, runpy, signal, sys
sys.path.insert(0, {str(SCRIPT.parents[1])!r})
from examples import train_timm
save = train_timm.Training.save
def killed(self, seen):
    save(self, seen)
    if (self.epoch, seen) == (1, 4):
        os.kill(os.getpid(), signal.SIGKILL)
train_timm.Training.save = killed
train_timm.main()
""")
    whole = arguments(work, tmp_path / "whole", *more)
    done = subprocess.run([*launch, "2", str(SCRIPT), *whole], **options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2: loss ") == 1
    stopped = arguments(work, tmp_path / "stopped", *more)
    assert subprocess.run([*launch, "2", str(kill), *stopped], **options).returncode != 0
    state = torch.load(tmp_path / "stopped" / "resume.pth.tar", weights_only=True)
    assert state["sampler"]["epoch"] == 1
    assert state["sampler"]["position"] == 8
    done = subprocess.run([*launch, "2", str(SCRIPT), *stopped], **options)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "stopped", tmp_path / "whole")
