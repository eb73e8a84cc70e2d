"""The task whose teacher is a store, with the installed timm and with the oldest that has tasks."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.distributed as dist
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver
from torch.utils.data import DataLoader

import labelstore
from labelstore.errors import LabelError, UsageError
from labelstore.images.sources.folder import FolderSource
from labelstore.torch import (
    CutMix,
    MixUp,
    SelfMix,
    SoftLabelDataset,
    ViewSampler,
    collate_views,
    ferkd_loss,
    hard_labels,
    soft_cross_entropy,
    soft_kl_divergence,
    vanilla_kd_loss,
)
from labelstore.torch.timm import StoredDistillationTask

OLDEST = "LABELSTORE_OLDEST_TIMM"
"""A folder of the oldest timm with tasks: pip install --no-deps --target FOLDER timm==1.0.23"""
RULES = {
    "mixup": MixUp(0.8),
    "cutmix per view": CutMix(1.0, per_view=True),
    "selfmix": SelfMix("cutmix"),
}

newer = pytest.mark.skipif(
    not hasattr(StoredDistillationTask, "setup_ema"), reason="the installed timm has no such tasks"
)


def student(classes=20):
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=classes)


@pytest.fixture
def batch(photos, store):
    data = SoftLabelDataset(photos, store, ferkd=labelstore.FerKD(discard="mask"))
    sampler = ViewSampler(data, views_per_image=2)
    return next(iter(DataLoader(data, 6, sampler=sampler, collate_fn=collate_views)))


@pytest.mark.parametrize(
    "loss",
    [
        soft_cross_entropy,
        ferkd_loss,
        functools.partial(soft_kl_divergence, temperature=2.0, temperature_squared=True),
    ],
)
def test_its_loss_is_that_of_the_student_on_the_labels(batch, loss):
    images, target = batch
    task = StoredDistillationTask(student(), loss).train()
    result = task(images, target)
    expected = loss(student().train()(images), target)
    torch.testing.assert_close(result["loss"], expected)
    torch.testing.assert_close(result["kd_loss"], expected)
    assert result["output"].shape == target.shape


def test_a_share_of_hard_labels_is_equation_1(batch):
    images, target = batch
    recipe = labelstore.recipe("kd", hard_weight=0.3, temperature=2.0)
    result = StoredDistillationTask.from_recipe(student(), recipe)(images, target)
    logits = student().train()(images)
    torch.testing.assert_close(
        result["loss"], vanilla_kd_loss(logits, target, alpha=0.3, temperature=2.0)
    )
    rows = torch.nn.functional.cross_entropy(logits, target.target, reduction="none")
    truth = (rows * target.weight).sum() / target.weight.sum()
    torch.testing.assert_close(result["task_loss"], truth)


@pytest.mark.parametrize("rule", RULES)
def test_soft_and_hard_labels_are_mixed_as_the_pixels_are(batch, rule):
    images, target = batch
    task = StoredDistillationTask(student(), mixing=RULES[rule], hard_weight=0.25)
    task(images, target)
    result = task(images, target)
    mixed = RULES[rule](images, target, step=1)
    logits = student().train()(mixed.images)
    truth = RULES[rule](images, hard_labels(target), step=1).target
    # Where crops of other classes were mixed, the label has the two classes' shares.
    assert (truth.dense().amax(1) < 0.999).any() or rule == "selfmix"
    torch.testing.assert_close(truth.dense().sum(1), torch.ones(len(truth)))
    expected = 0.25 * soft_cross_entropy(logits, truth)
    expected = expected + 0.75 * soft_cross_entropy(logits, mixed.target)
    torch.testing.assert_close(result["loss"], expected)
    assert task.step == 2


def test_a_task_that_is_evaluated_mixes_nothing(batch):
    images, target = batch
    task = StoredDistillationTask(student(), mixing=MixUp()).eval()
    expected = soft_cross_entropy(student().eval()(images), target)
    torch.testing.assert_close(task(images, target)["loss"], expected)
    assert task.step == 0


def test_recipes_train(photos, store):
    recipe = labelstore.recipe("ferkd")
    data = SoftLabelDataset(photos, store, **recipe.dataset_arguments())
    sampler = ViewSampler(data, **recipe.sampler_arguments())
    task = StoredDistillationTask.from_recipe(student(), recipe)
    assert task.loss.func is ferkd_loss
    optimizer = create_optimizer_v2(task.trainable_module, opt="adamw", lr=1e-3)
    loader = DataLoader(data, 4, sampler=sampler, collate_fn=collate_views)
    for images, target in loader:
        loss = task(images, target)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    assert task.step == len(loader)


@pytest.mark.parametrize("several", [False, True])
def test_mixup_of_timm_is_refused_with_the_name_of_ours(batch, several):
    images, target = batch
    mixup = Mixup(mixup_alpha=0.8, num_classes=20)
    mixup.multi_label = several
    with pytest.raises(UsageError, match=r"labelstore\.torch\.MixUp"):
        mixup(images, target)


def test_mistakes_are_named(batch, photos, store):
    images, target = batch
    with pytest.raises(UsageError, match=r"hard_weight is 1\.5"):
        StoredDistillationTask(student(), hard_weight=1.5)
    with pytest.raises(UsageError, match="the target is a Tensor"):
        StoredDistillationTask(student())(images, target.target)
    unknown = dataclasses.replace(target, target=-torch.ones_like(target.target))
    with pytest.raises(LabelError, match="12 of 12 views have none"):
        StoredDistillationTask(student(), hard_weight=0.5)(images, unknown)
    with pytest.raises(UsageError, match="hard_weight of recipe 'kd' is None"):
        StoredDistillationTask.from_recipe(student(), "kd")
    with pytest.raises(UsageError, match="the rule is"):
        StoredDistillationTask(student(), mixing=Mixup(num_classes=20))


def test_labels_tell_what_a_tensor_of_probabilities_would(batch):
    _, target = batch
    dense = target.dense()
    for labels in (target, target[:0]):
        dense = labels.dense()
        assert (labels.shape, labels.size(), labels.dtype, labels.device) == (
            *(dense.shape, dense.size(), dense.dtype),
            dense.device,
        )
        assert (labels.size(0), labels.size(-1), labels.ndim, labels.dim()) == (
            *(dense.size(0), dense.size(-1)),
            *(dense.ndim, dense.dim()),
        )


@pytest.mark.slow
@newer
def test_checkpoints_averages_and_evaluators_are_those_of_timm(batch, tmp_path):
    from timm.task import load_task_ema_checkpoint, resume_task_checkpoint

    images, target = batch

    def prepared():
        task = StoredDistillationTask(student(), mixing=MixUp())
        task.setup_ema(decay=0.5)
        task.compile(backend="eager")
        return task, create_optimizer_v2(task.get_trainable_module(), opt="adamw", lr=1e-3)

    def train(task, optimizer):
        loss = task(images, target)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        task.update_ema()
        return loss.item()

    task, optimizer = prepared()
    for _ in range(2):
        train(task, optimizer)
    model = task.get_eval_model()
    saver = CheckpointSaver(model, optimizer, task=task, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0)
    after = train(task, optimizer)
    # The student's own keys: whoever evaluates or exports it needs no task.
    loaded = student()
    file = str(tmp_path / "last.pth.tar")
    timm.models.load_checkpoint(loaded, file, use_ema=True)
    again, second = prepared()
    assert resume_task_checkpoint(again, file, second) == 1
    load_task_ema_checkpoint(again, file)
    assert again.step == 2
    averages = again.get_eval_model(ema=True).state_dict()
    assert all(
        torch.equal(value, averages[f"module.{name}"])
        for name, value in loaded.state_dict().items()
    )
    # The same draws from the same weights.
    assert train(again, second) == after
    evaluator = task.create_evaluator()
    evaluator.update(task.eval().get_eval_model()(images), target.target)
    assert 0 <= evaluator.compute()["top1"] <= 100


def gradients_of_rank(rank, world, folder, photos, store):
    """A step of one process, whose rows weigh other than the other's; writes gradients' sums."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    try:
        images, target = whole_batch(photos, store)
        rows = slice(rank * 6, rank * 6 + 6)
        task = StoredDistillationTask(flat(), hard_weight=0.25)
        assert task.prepare_distributed() is task
        task(images[rows], target[rows])["loss"].backward()
        gradient = task.trainable_module.module[1].weight.grad
        (folder / f"rank{rank}.json").write_text(json.dumps(gradient.flatten()[:50].tolist()))
    finally:
        dist.destroy_process_group()


def flat():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 20, 20))


def whole_batch(photos, store):
    data = SoftLabelDataset(FolderSource(photos), labelstore.open(store))
    sampler = ViewSampler(data, num_replicas=1, rank=0)
    images, target = next(iter(DataLoader(data, 12, sampler=sampler, collate_fn=collate_views)))
    weight = torch.arange(12) % 7 / 3
    return images, dataclasses.replace(target, weight=weight)


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_step_as_one_with_all_their_rows(work, tmp_path):
    arguments = (2, tmp_path, work.photos, work.store)
    torch.multiprocessing.start_processes(
        gradients_of_rank, arguments, nprocs=2, start_method="spawn"
    )
    task = StoredDistillationTask(flat(), hard_weight=0.25)
    task(*whole_batch(work.photos, work.store))["loss"].backward()
    expected = task.trainable_module[1].weight.grad.flatten()[:50]
    for rank in range(2):
        gradient = torch.tensor(json.loads((tmp_path / f"rank{rank}.json").read_text()))
        torch.testing.assert_close(gradient, expected)


@pytest.mark.skipif(OLDEST not in os.environ, reason=f"{OLDEST} names no folder")
def test_with_the_oldest_timm_that_has_tasks(tmp_path):
    folder = os.environ[OLDEST]
    environment = {**os.environ, "PYTHONPATH": folder}
    del environment[OLDEST]
    root = Path(__file__).parents[2]
    # That timm calls what today's torch warns of.
    quiet = ["-W", "ignore::FutureWarning", "-W", "ignore::DeprecationWarning"]
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *quiet]
    command.append(__file__)
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_the_timm_that_was_asked_for():
    # A run with the oldest must not quietly test the installed one.
    paths = [Path(entry, "timm") for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    asked = [path for path in paths if (path / "version.py").exists()]
    if asked:
        assert Path(timm.__file__).parent == asked[0]
    else:
        assert timm.__version__ == importlib.metadata.version("timm")
