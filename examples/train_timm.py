"""Train a student from stored labels with what timm 1.0.31 has: its task API, optimizers,
schedules, averaged weights, evaluators and checkpoints.

    python train_timm.py photos teacher.zarr --model resnet50 --recipe ferkd --val val
    torchrun --nproc-per-node 8 train_timm.py photos teacher.zarr --model resnet50 --val val

The same command again goes on where it stopped, in mid-epoch too, with the same views. OUT has
summary.csv, events for TensorBoard where that is installed, resume.pth.tar, and timm's last.pth.tar
and model_best.pth.tar, which its validate.py reads.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
from timm import utils
from timm.data import create_loader
from timm.data.loader import PrefetchLoader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import evaluation_sample_limit, load_task_ema_checkpoint, resume_task_checkpoint
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

import labelstore
from labelstore import torch as soft
from labelstore.torch.timm import StoredDistillationTask

FIXED = ("model", "recipe", "size", "epochs", "batch_size", "opt", "lr", "sched", "ema", "amp")
"""Options that a run goes on with as it began; the sampler looks after its own."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("photos", help="the folder that was labelled")
    parser.add_argument("store", help="its labels")
    parser.add_argument("--val", help="a folder to validate on, its class folders named alike")
    parser.add_argument("--out", type=Path, default=Path("run"), help="all that is written")
    parser.add_argument("--model", default="resnet50", help="timm's name of the student")
    parser.add_argument("--recipe", default="ferkd", help="ferkd, fkd, funmatch or meal-v2")
    parser.add_argument("--size", type=int, default=224, help="side of its input in pixels")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64, help="photos a step and process")
    parser.add_argument("--opt", default="adamw", help="timm's name of the optimizer")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--sched", default="cosine", help="timm's name of the schedule")
    parser.add_argument("--ema", type=float, default=0.9998, help="decay of averaged weights")
    parser.add_argument("--amp", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--workers", type=int, default=8, help="processes that decode")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    options = parser.parse_args(arguments)
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    device = utils.init_distributed_device(options)  # adds world_size, rank and distributed
    Training(options, device).run()
    if options.distributed:
        dist.destroy_process_group()


class Training:
    def __init__(self, options: Any, device: torch.device) -> None:
        self.options, self.device, self.store = options, device, labelstore.open(options.store)
        self.fixed = {name: getattr(options, name) for name in FIXED}
        cuda, self.dtype = device.type == "cuda", getattr(torch, options.amp)
        recipe = labelstore.recipe(options.recipe, self.store)  # FerKD's thresholds fit the store
        # uint8 pixels: a quarter of the bytes to the device, where timm normalises them.
        labels = {"size": options.size, "normalize": None, **recipe.dataset_arguments()}
        self.data = soft.SoftLabelDataset(ImageFolder(options.photos), self.store, **labels)
        self.sampler = soft.ViewSampler(self.data, **recipe.sampler_arguments())
        self.photos = len(self.sampler.order.images)
        teacher = self.store.manifest.teachers[0]  # the student's input is as the teacher's
        self.input = {"mean": teacher["mean"], "std": teacher["std"], "device": device}
        self.loading = {"batch_size": options.batch_size, "num_workers": options.workers}
        views = {"sampler": self.sampler, "collate_fn": soft.collate_views, "pin_memory": cuda}
        self.loader = PrefetchLoader(DataLoader(self.data, **self.loading, **views), **self.input)
        torch.manual_seed(0)
        student = timm.create_model(options.model, num_classes=self.store.num_classes).to(device)
        self.task = StoredDistillationTask.from_recipe(student, recipe, device=device)
        self.optimizer = create_optimizer_v2(student, options.opt, options.lr, weight_decay=0.05)
        # Counted in photos, whatever a step is.
        plan = {"num_epochs": options.epochs, "warmup_epochs": min(5, options.epochs // 10)}
        plan |= {"step_on_epochs": False, "updates_per_epoch": self.photos}
        self.scheduler, _ = create_scheduler_v2(self.optimizer, options.sched, **plan)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.task.setup_ema(options.ema, use_warmup=True)
        self.totals = torch.zeros(2, device=device)  # of process 0 in this epoch: losses, steps
        self.epoch = self.position = 0  # position: photos that all processes showed of the epoch
        options.out.mkdir(parents=True, exist_ok=True)
        self.checkpoint, folder = options.out / "resume.pth.tar", str(options.out)
        best = {"task": self.task, "checkpoint_dir": folder, "max_history": 3}
        self.saver = utils.CheckpointSaver(student, self.optimizer, **best)
        if self.checkpoint.exists():
            self.resume()
        if options.distributed:
            self.task.prepare_distributed([device.index] if cuda else None)
        self.board = None
        if options.rank == 0 and importlib.util.find_spec("tensorboard"):
            tensorboard = importlib.import_module("torch.utils.tensorboard")
            self.board = tensorboard.SummaryWriter(folder, purge_step=self.epoch)

    def run(self) -> None:
        validation = self.validation_loader() if self.options.val else None
        while self.epoch < self.options.epochs:
            shown = self.train_epoch()
            told = {} if validation is None else self.validate(validation)
            if self.options.rank == 0:
                self.tell(shown, told)
            self.epoch, self.position = self.epoch + 1, 0
            self.totals.zero_()
            self.sampler.set_epoch(self.epoch)
            self.save(seen=0)

    def tell(self, shown: dict[str, float], told: dict[str, float]) -> None:
        file = self.options.out / "summary.csv"
        utils.trim_summary(file, self.epoch)  # of a run that was stopped right here
        utils.update_summary(self.epoch, shown, told, file, self.optimizer.param_groups[0]["lr"])
        self.saver.save_checkpoint(self.epoch, told.get("top1"))
        values = ", ".join(f"{name} {value:.4g}" for name, value in (shown | told).items())
        print(f"epoch {self.epoch + 1}: {values}", flush=True)
        for name, value in (shown | told).items() if self.board is not None else ():
            self.board.add_scalar(name, value, self.epoch)

    def train_epoch(self) -> dict[str, float]:
        self.task.train()
        start, seen, steps, begin = self.position, 0, len(self.loader), time.perf_counter()
        for step, (images, target) in enumerate(self.loader, 1):
            place = self.epoch * self.photos + self.position
            torch.manual_seed(place * self.options.world_size + self.options.rank)  # for dropout
            self.scheduler.step_update(place)
            with torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
                result = self.task(images, target)
            self.optimizer.zero_grad()
            self.scaler.scale(result["loss"]).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.task.update_ema(step=self.task.step)
            self.totals += torch.stack([result["loss"].detach(), torch.ones_like(self.totals[0])])
            seen += len(images) // self.sampler.views_per_image
            self.position = start + seen * self.options.world_size
            if step % self.options.save_every == 0 and step < steps:
                self.save(seen)
        loss, count = self.totals.tolist()  # waits for the device
        seconds = (time.perf_counter() - begin) / steps
        labels = soft.label_seconds(self.data, target, result["output"], self.task.loss)
        views = seen * self.sampler.views_per_image * self.options.world_size
        speed = {"images_per_second": views / steps / seconds}
        return {"loss": loss / count, **speed, "labels_percent": 100 * labels / seconds}

    def validation_loader(self) -> Any:
        loading = {**self.loading, **self.input, "distributed": self.options.distributed}
        loading |= {"input_size": self.options.size, "interpolation": self.data.interpolation}
        return create_loader(soft.validation_folder(self.options.val, self.store), **loading)

    @torch.no_grad()
    def validate(self, loader: Any) -> dict[str, float]:
        self.task.eval()
        told, world = {}, self.options.world_size
        for name in ("", "ema_"):
            model = self.task.get_eval_model(ema=name == "ema_")
            if world > 1:  # process 0's statistics are those that are saved
                utils.distribute_bn(model, world)
            evaluator = self.task.create_evaluator(max_samples=evaluation_sample_limit(loader))
            for images, target in loader:
                evaluator.update(model(images), target)
            told |= {name + key: value for key, value in evaluator.compute(world > 1).items()}
        return told

    def save(self, seen: int) -> None:
        """Write where training stands: ``seen`` photos of this process since the loader began."""
        state = {"epoch": self.epoch, "optimizer": self.optimizer.state_dict()}
        state |= self.task.get_checkpoint_state() | self.task.get_checkpoint_state(ema=True)
        state |= {"sampler": self.sampler.state_dict(seen), "scaler": self.scaler.state_dict()}
        state |= {"options": self.fixed, "saver": self.saver.state_dict(), "totals": self.totals}
        if self.options.rank == 0:
            torch.save(state, self.checkpoint.with_suffix(".partial"))
            self.checkpoint.with_suffix(".partial").replace(self.checkpoint)

    def resume(self) -> None:
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        if state["options"] != self.fixed:
            raise SystemExit(f"{self.checkpoint} is of a run with {state['options']}")
        self.sampler.load_state_dict(state["sampler"])
        self.epoch, self.position = state["sampler"]["epoch"], state["sampler"]["position"]
        self.totals = state["totals"].to(self.device)
        resume_task_checkpoint(self.task, self.checkpoint, self.optimizer)
        self.scaler.load_state_dict(state["scaler"])
        self.saver.load_state_dict(state["saver"])
        load_task_ema_checkpoint(self.task, self.checkpoint)


if __name__ == "__main__":
    main()
