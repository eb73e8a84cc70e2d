"""Lightning trains a student from the data module, and goes on from its checkpoints."""

from __future__ import annotations

import warnings

import pytest
import torch

import labelstore
from labelstore.errors import UsageError
from labelstore.torch import SoftLabelDataset, ViewSampler, soft_cross_entropy
from tests.support.training import NUM_CLASSES, SIZE

with warnings.catch_warnings():
    # Lightning's own imports warn.
    warnings.simplefilter("ignore")
    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import ModelCheckpoint

    from labelstore.torch.lightning import LabelStoreDataModule

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)

EPOCHS, BATCHES = 2, 5
# A checkpoint's name, and how many steps are behind it.
CHECKPOINTS = [("stepstep=3", 3), ("stepstep=5", 5), ("stepstep=7", 7), ("epochepoch=0", 5)]


class Student(lightning.LightningModule):
    """One layer that keeps what it was shown."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        size = 3 * SIZE[0] * SIZE[1]
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, NUM_CLASSES))
        self.shown, self.losses = [], []

    def training_step(self, batch, _):
        images, target = batch
        loss = soft_cross_entropy(self.net(images), target)
        self.log("loss", loss)
        pairs = zip(target.image.tolist(), target.view.tolist(), strict=True)
        self.shown.append((self.current_epoch, list(pairs)))
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3, momentum=0.9)


def fit(work, folder, *, checkpoint=None, callbacks=(), num_workers=0):
    from torchvision.datasets import ImageFolder

    data = SoftLabelDataset(ImageFolder(work.photos), labelstore.open(work.store))
    student = Student()
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        callbacks=list(callbacks),
        default_root_dir=folder,
    )
    module = LabelStoreDataModule(data, 3, views_per_image=2, num_workers=num_workers, seed=5)
    trainer.fit(student, datamodule=module, ckpt_path=checkpoint)
    return student


@pytest.fixture(scope="module", params=[0, 2], ids=["0 workers", "2 workers"])
def undisturbed(request, work, tmp_path_factory):
    """A whole training, with checkpoints after every step and after every epoch."""
    folder = tmp_path_factory.mktemp("lightning")
    options = {"dirpath": folder, "save_top_k": -1}
    steps = ModelCheckpoint(filename="step{step}", every_n_train_steps=1, **options)
    epochs = ModelCheckpoint(
        filename="epoch{epoch}", every_n_epochs=1, save_on_train_epoch_end=True, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        student = fit(work, folder, callbacks=[steps, epochs], num_workers=request.param)
    return folder, student, request.param


def test_two_epochs_show_what_the_sampler_says(undisturbed, store):
    _, student, _ = undisturbed
    sampler = ViewSampler(store, views_per_image=2, seed=5)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        shown = [pair for when, pairs in student.shown if when == epoch for pair in pairs]
        assert shown == [(show.image, view) for show in sampler for view in show.views]
    assert len(student.losses) == EPOCHS * BATCHES


@pytest.mark.parametrize(("name", "steps"), CHECKPOINTS)
def test_a_training_goes_on_from_a_checkpoint(undisturbed, work, tmp_path, name, steps):
    folder, student, num_workers = undisturbed
    (checkpoint,) = folder.glob(f"{name}*.ckpt")
    later = fit(work, tmp_path, checkpoint=checkpoint, num_workers=num_workers)
    assert later.shown == student.shown[steps:]
    assert later.losses == student.losses[steps:]


@pytest.mark.parametrize("wrapped", [True, False])
def test_several_processes_take_parts_of_the_order_once(photos, store, wrapped):
    module = LabelStoreDataModule(SoftLabelDataset(photos, store), 3, views_per_image=2)
    module.trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        use_distributed_sampler=wrapped,
        logger=False,
        enable_checkpointing=False,
    )
    if wrapped:
        with pytest.raises(UsageError, match="use_distributed_sampler=False"):
            module.train_dataloader()
        return
    loader = module.train_dataloader()
    assert (loader.sampler.num_replicas, loader.sampler.rank) == (2, 0)
    assert len(list(loader.sampler)) == 7
    assert len(loader) == 3


@pytest.mark.parametrize(
    ("options", "loader_options", "expected"),
    [({}, {}, 5), ({"budget": 0.5}, {}, 3), ({"budget": 0.5}, {"drop_last": True}, 2)],
)
def test_a_loader_is_as_long_as_a_whole_epoch(photos, store, options, loader_options, expected):
    data = SoftLabelDataset(photos, store)
    module = LabelStoreDataModule(data, 3, loader_options=loader_options, **options)
    loader = module.train_dataloader()
    assert len(loader) == expected == len(list(loader))
    loader.sampler.load_state_dict({**loader.sampler.state_dict(), "position": 3})
    assert len(loader) == expected
