"""A training task of timm whose teacher is a store (timm 1.0.23 or newer).

    task = StoredDistillationTask.from_recipe(model, "ferkd", device=device)
    task.setup_ema(decay=0.9998)
    task.prepare_distributed(device_ids=[local_rank])
    for images, target in loader:  # of a SoftLabelDataset, by collate_views
        result = task(images, target.to(device))
        result["loss"].backward()

It stands where timm's ``LogitDistillationTask`` does, which runs its teacher at every step. What a
``TrainingTask`` offers (compile, EMA, distributed training, evaluators, checkpoints) is the
installed timm's own: 1.0.23 has distributed training alone.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

from labelstore.errors import MissingPackageError, UsageError, require_packages
from labelstore.torch.labels.soft_labels import TorchSoftLabels
from labelstore.torch.losses.losses import (
    hard_labels,
    mean_weight,
    soft_cross_entropy,
)
from labelstore.torch.mixing import on_tensors
from labelstore.torch.recipes import Recipe, recipe

try:
    from timm.task import TrainingTask
except ModuleNotFoundError as error:
    require_packages("labelstore.torch.timm", "timm")
    raise MissingPackageError(
        "labelstore.torch.timm needs timm 1.0.23 or newer and the timm that is installed has no "
        "tasks: pip install -U timm."
    ) from error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from labelstore.torch.recipes import LossFunction
    from labelstore.training.mixing import Mixing

__all__ = ["StoredDistillationTask"]


class StoredDistillationTask(TrainingTask):  # type: ignore[misc]
    """Distillation from stored labels: ``(1 - hard_weight) * loss + hard_weight * cross-entropy
    with the ground truth``."""

    def __init__(
        self,
        student_model: torch.nn.Module,
        loss: LossFunction = soft_cross_entropy,
        *,
        mixing: Mixing | None = None,
        hard_weight: float = 0.0,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        """Keep what a step needs.

        Args:
            student_model: (B, 3, H, W) to logits (B, num_classes).
            loss: of ``labelstore.torch``, or ``functools.partial`` of one: takes logits and labels,
                gives the mean over the batch. Where rows have weights and training is distributed,
                it is called with ``reduction="sum"``, too.
            mixing: a rule of ``labelstore.torch`` or ``labelstore.mixing`` that mixes each training
                batch, its hard labels with it. None: nothing is mixed, or the loader's batches were
                mixed already.
            hard_weight: 0..1, the share of the cross-entropy with the ground truth,
                ``target.target``, at temperature 1: alpha of equation 1 of the FerKD paper. Of
                batches that were mixed before, the ground truth is lost: have the task mix them.
            device, dtype, verbose: TrainingTask's.

        Raises:
            UsageError: a weight out of range, or no mixing rule.
        """
        super().__init__(device=device, dtype=dtype, verbose=verbose)
        if not 0 <= hard_weight <= 1:
            raise UsageError(
                f"hard_weight is {hard_weight}, expected 0 to 1, the share of the hard labels."
            )
        self.trainable_module: Any = student_model
        self.loss = loss
        self.mixing = None if mixing is None else on_tensors(mixing)
        self.hard_weight = hard_weight
        self.step = 0
        """How many batches were trained on: mixing draws by it. Checkpoints have it."""
        self._distributed = False
        self._group: Any = None

    @classmethod
    def from_recipe(
        cls, student_model: torch.nn.Module, chosen: Recipe | str, **options: Any
    ) -> StoredDistillationTask:
        """The task with a recipe's loss, temperature, mixing and weight of hard labels.

        Args:
            student_model: as above.
            chosen: of ``labelstore.recipe``, or its name. What it says of the labels is the data
                set's and the sampler's (``Recipe.dataset_arguments``, ``sampler_arguments``).
            options: further arguments of the task, which go before the recipe's.

        Raises:
            UsageError: no such recipe, or one whose ``hard_weight`` is still to be chosen.
        """
        chosen = recipe(chosen) if isinstance(chosen, str) else chosen
        loss = chosen.build_loss()
        settings: dict[str, Any] = {"mixing": chosen.mixing}
        if chosen.loss == "vanilla-kd":
            # Equation 1, its terms apart, so that mixing reaches the hard labels as well.
            loss = dataclasses.replace(chosen, loss="kl-divergence").build_loss()
            settings["hard_weight"] = chosen.hard_weight
        return cls(student_model, loss, **settings | options)

    def prepare_distributed(
        self, device_ids: list[int] | None = None, **ddp_kwargs: Any
    ) -> StoredDistillationTask:
        """Wrap the student in DistributedDataParallel; after ``compile`` and ``setup_ema``."""
        self.trainable_module = DistributedDataParallel(
            self.trainable_module, device_ids=device_ids, **ddp_kwargs
        )
        self._distributed, self._group = True, ddp_kwargs.get("process_group")
        return self

    def compile(
        self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any
    ) -> Any:
        """Compile the student, which is what is evaluated as well; before
        ``prepare_distributed``."""
        self.trainable_module = torch.compile(
            self.trainable_module, backend=backend, mode=mode, **compile_kwargs
        )
        self.eval_model = self.trainable_module
        return self.trainable_module

    def get_task_state(
        self, module: torch.nn.Module | None = None, ema: bool = False
    ) -> dict[str, Any]:
        """What a checkpoint keeps beside the student: ``step``."""
        return {} if ema else {"step": self.step}

    def load_task_state(
        self,
        state: Mapping[str, Any] | None,
        strict: bool = True,
        module: torch.nn.Module | None = None,
        ema: bool = False,
    ) -> None:
        """Go on at a checkpoint's step; one without it (another task's) leaves it as it is."""
        if not ema and state is not None:
            self.step = int(state.get("step", self.step))

    def forward(self, input: torch.Tensor, target: TorchSoftLabels) -> dict[str, torch.Tensor]:
        """Logits and loss of a batch, which is mixed first where the task is in training mode.

        Args:
            input: (B, 3, H, W), normalised.
            target: their B labels, on any device. Where they are still on the CPU, SelfMix does not
                wait for a GPU.

        Returns:
            ``loss``, to go back from; ``output`` (B, num_classes); ``kd_loss``, the part of the
            soft labels; ``task_loss``, that of the hard ones where hard_weight is above 0.

        Raises:
            UsageError: a target that is no ``TorchSoftLabels``. LabelError: hard_weight is above 0
                and a ground truth is unknown. Others as the loss and ``mix_batch``.
        """
        if not isinstance(target, TorchSoftLabels):
            raise UsageError(
                f"the target is a {type(target).__name__}, expected TorchSoftLabels: make the "
                "loader of a SoftLabelDataset with collate_views, and recover labels that are as "
                "stored (labelstore.torch.recover)."
            )
        hard = hard_labels(target) if self.hard_weight else None
        if self.training:
            if self.mixing is not None:
                if hard is not None:
                    # The same draws as below, and no pixel to mix.
                    hard = self.mixing(input[:, :0], hard, step=self.step).target
                input, target, _ = self.mixing(input, target, step=self.step)
            self.step += 1
        output = self.trainable_module(input)
        target = target.to(output.device)
        mass = None
        if self._distributed and target.weight is not None:
            mass = mean_weight(target, self._group)
        kd_loss = _mean(self.loss, output, target, mass)
        if hard is None:
            return {"loss": kd_loss, "output": output, "kd_loss": kd_loss}
        task_loss = _mean(soft_cross_entropy, output, hard.to(output.device), mass)
        loss = self.hard_weight * task_loss + (1 - self.hard_weight) * kd_loss
        return {"loss": loss, "output": output, "task_loss": task_loss, "kd_loss": kd_loss}


def _mean(
    loss: Any, output: torch.Tensor, target: TorchSoftLabels, mass: torch.Tensor | None
) -> torch.Tensor:
    """The batch's mean; with a mass, what ranks average to the mean over all their rows."""
    if mass is None:
        return loss(output, target)  # type: ignore[no-any-return]
    return loss(output, target, reduction="sum") / mass  # type: ignore[no-any-return]
