"""Photos with stored labels for Lightning (the extra ``lightning``).

    data = SoftLabelDataset(ImageFolder("photos"), labelstore.open("teacher.zarr"), size=224)
    module = LabelStoreDataModule(data, batch_size=64, views_per_image=4, num_workers=8)
    Trainer(max_epochs=300, use_distributed_sampler=False).fit(model, datamodule=module)

Works with ``lightning`` and with ``pytorch_lightning``; of both, with the one that was imported
first, or else with ``lightning``.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from typing import TYPE_CHECKING, Any

from labelstore.errors import UsageError, require_packages
from labelstore.torch.collate import collate_views
from labelstore.torch.sampler import ViewSampler

try:
    from torchdata.stateful_dataloader import StatefulDataLoader
except ModuleNotFoundError:
    require_packages("labelstore.torch.lightning", "torchdata", extra="lightning")
    raise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from labelstore.torch.dataset import SoftLabelDataset

    Base = Any

__all__ = ["LabelStoreDataModule"]


def _base() -> Any:
    """Lightning's data module, of the package whose Trainer is in use."""
    names = [name for name in sys.modules if name in ("lightning.pytorch", "pytorch_lightning")]
    if not names:
        names = ["lightning.pytorch"]
        if importlib.util.find_spec("lightning") is None:
            names = ["pytorch_lightning"]
            require_packages("labelstore.torch.lightning", *names, extra="lightning")
    return importlib.import_module(names[0]).LightningDataModule


if not TYPE_CHECKING:
    Base = _base()


class _Loader(StatefulDataLoader):  # type: ignore[misc]
    """A loader in Lightning's order of doing things."""

    def __iter__(self) -> Iterator[Any]:
        # Lightning makes the iterator of an epoch that it resumes before it sets the epoch, and
        # workers would begin at once. A generator begins when its first batch is asked for.
        yield from super().__iter__()

    def __len__(self) -> int:
        # Lightning asks after it has loaded the state of an epoch's middle, and counts batches from
        # the epoch's beginning: the length is that of a whole epoch.
        sampler: ViewSampler = self.sampler
        # Of a budget, the epochs with one image more.
        images = math.ceil(len(sampler.order.images) * sampler.order.budget)
        own, remainder = divmod(images, sampler.num_replicas)
        own += bool(remainder) and not sampler.drop_last
        batches, remainder = divmod(own, self.batch_size)
        return int(batches + (bool(remainder) and not self.drop_last))


class LabelStoreDataModule(Base):  # type: ignore[misc]
    """The training batches of a ``SoftLabelDataset``.

    ``training_step`` gets ``(images, target)`` as ``collate_views`` makes them, on the device.
    Lightning sets the epoch; its checkpoints hold where in the epoch training stands, in the middle
    of one as well.
    """

    def __init__(
        self,
        data: SoftLabelDataset,
        batch_size: int = 64,
        views_per_image: int = 1,
        *,
        num_workers: int = 0,
        val_dataloaders: Any = None,
        loader_options: dict[str, Any] | None = None,
        **sampler_options: Any,
    ) -> None:
        """Keep what the loaders are made of.

        Args:
            data: photos with their labels.
            batch_size: images of a batch and process: it has ``batch_size * views_per_image``
                views.
            views_per_image: how many views of an image stand side by side.
            num_workers: DataLoader's.
            val_dataloaders: given to Lightning for validation as they are.
            loader_options: further arguments of DataLoader, such as ``pin_memory``.
            sampler_options: further arguments of ``ViewSampler``, such as ``seed`` or ``schedule``.
        """
        super().__init__()
        self.data = data
        self.batch_size, self.views_per_image = batch_size, views_per_image
        self.num_workers = num_workers
        self.validation = val_dataloaders
        self.loader_options = dict(loader_options or {})
        self.sampler_options = sampler_options

    def train_dataloader(self) -> StatefulDataLoader:
        """The loader of this process.

        Raises:
            UsageError: several processes, whose samplers Lightning would wrap in its own. Others as
                ``ViewSampler``.
        """
        trainer = self.trainer
        world, rank = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
        if world > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise UsageError(
                f"the trainer has {world} processes and use_distributed_sampler=True, which would "
                "take parts of the sampler's part: make it with use_distributed_sampler=False."
            )
        sampler = ViewSampler(
            self.data,
            self.views_per_image,
            num_replicas=world,
            rank=rank,
            **self.sampler_options,
        )
        return _Loader(
            self.data,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=collate_views,
            num_workers=self.num_workers,
            **self.loader_options,
        )

    def val_dataloader(self) -> Any:
        """The loaders that were given, or none."""
        return [] if self.validation is None else self.validation
