"""Train a student from stored labels, and validate it. Plain torch.

    python train.py photos teacher.zarr --validation validation
    torchrun --nproc-per-node 8 train.py photos teacher.zarr --validation validation

The same command again goes on where it stopped, in mid-epoch too. What a step does depends on its
place in the training alone, so a run that was stopped ends as one that was not. The validation
folder has class folders of the same names as the photos.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

import labelstore
from labelstore.errors import UsageError
from labelstore.images import normalize
from labelstore.torch import (
    SoftLabelDataset,
    ViewSampler,
    collate_views,
    label_seconds,
    soft_cross_entropy,
    validation_folder,
)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FIXED = ("model", "size", "epochs", "batch_size", "lr", "precision")
"""Options that a run goes on with as it began; the sampler looks after its own."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", help="the folder that was labelled")
    parser.add_argument("store", help="its labels")
    parser.add_argument("--validation", help="a folder of photos to tell top-1 on")
    parser.add_argument("--out", type=Path, default=Path("run"), help="checkpoint and student")
    parser.add_argument("--model", default="resnet18", help="timm's name of the student")
    parser.add_argument("--size", type=int, default=224, help="side of its input in pixels")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64, help="photos a step and process")
    parser.add_argument("--views-per-image", type=int, default=4, help="crops of each photo")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--workers", type=int, default=8, help="processes that decode")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    options = parser.parse_args(arguments)
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        Training(options, world, rank, device).run()
    finally:
        if world > 1:
            dist.destroy_process_group()


class Training:
    def __init__(self, options: Any, world: int, rank: int, device: torch.device) -> None:
        self.options, self.world, self.rank, self.device = options, world, rank, device
        self.store = labelstore.open(options.store)
        photos = ImageFolder(options.photos)
        # uint8 pixels: a quarter of the bytes to the device, which normalises them.
        self.data = SoftLabelDataset(photos, self.store, size=options.size, normalize=None)
        self.sampler = ViewSampler(self.data, options.views_per_image)
        cuda = device.type == "cuda"
        self.loading: dict[str, Any] = {"num_workers": options.workers, "pin_memory": cuda}
        self.loading["batch_size"] = options.batch_size
        self.loader: DataLoader[Any] = DataLoader(
            self.data, sampler=self.sampler, collate_fn=collate_views, **self.loading
        )
        torch.manual_seed(0)
        student = timm.create_model(options.model, num_classes=self.store.num_classes)
        self.student = student.to(device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), weight_decay=0.05)
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        self.epoch = self.position = 0  # images shown in this epoch by all processes
        options.out.mkdir(parents=True, exist_ok=True)
        self.checkpoint = options.out / "checkpoint.pt"
        if self.checkpoint.exists():
            self.resume()
        ids = [device.index] if cuda else None
        self.model = DistributedDataParallel(student, ids) if world > 1 else student

    def run(self) -> None:
        validation = self.validation_set() if self.options.validation else None
        while self.epoch < self.options.epochs:
            self.train_epoch()
            self.epoch, self.position = self.epoch + 1, 0
            self.sampler.set_epoch(self.epoch)
            self.save(seen=0)
            if validation is not None:
                self.tell(f"epoch {self.epoch}: top-1 {self.top_1(validation):.2%}")
        if self.rank == 0:
            torch.save(self.student.state_dict(), self.options.out / "student.pt")
        self.tell(f"the student is in {self.options.out / 'student.pt'}")

    def train_epoch(self) -> None:
        self.model.train()
        self.sampler.set_epoch(self.epoch)
        steps, seen, start, losses = len(self.loader), 0, self.position, []
        begin = time.perf_counter()
        for step, (pixels, target) in enumerate(self.loader, 1):
            target = target.to(self.device, non_blocking=True)
            loss, logits = self.train_step(pixels, target)
            losses.append(loss)
            seen += len(pixels) // self.options.views_per_image
            self.position = start + seen * self.world
            if step % self.options.save_every == 0 and step < steps:
                self.save(seen)
                shown = f"{self.position} of {len(self.sampler.order.images)} photos"
                self.tell(f"epoch {self.epoch + 1}, {shown}: loss {loss:.4f}")
        mean = torch.stack(losses).mean().item()  # waits for the device
        whole = 1000 * (time.perf_counter() - begin) / steps
        labels = 1000 * label_seconds(self.data, target, logits, soft_cross_entropy)
        self.tell(
            f"epoch {self.epoch + 1}: loss {mean:.4f}; a step takes {whole:.1f} ms, its labels "
            f"{labels:.1f} ms ({labels / whole:.1%})"
        )

    def train_step(self, pixels: torch.Tensor, target: Any) -> tuple[torch.Tensor, torch.Tensor]:
        images = len(self.sampler.order.images)
        place = self.epoch * images + self.position
        torch.manual_seed(place * self.world + self.rank)  # for students with dropout
        share = place / (self.options.epochs * images)
        rising, falling = 0.01 + 20 * share, (1 + math.cos(math.pi * share)) / 2
        self.optimizer.param_groups[0]["lr"] = self.options.lr * min(rising, falling)
        with self.autocast():
            logits = self.model(self.normalized(pixels))
        loss = soft_cross_entropy(logits, target)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach(), logits.detach()

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        teacher = self.store.manifest.teachers[0]
        pixels = pixels.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return normalize(pixels, teacher["mean"], teacher["std"])

    def autocast(self) -> torch.autocast:
        precision = self.options.precision
        return torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32")

    def validation_set(self) -> ImageFolder:
        size, kind = self.options.size, transforms.InterpolationMode(self.data.interpolation)
        steps = [transforms.Resize(round(size / 0.875), kind), transforms.CenterCrop(size)]
        transform = transforms.Compose([*steps, transforms.PILToTensor()])
        try:
            data = validation_folder(self.options.validation, self.store)
        except UsageError as error:
            raise SystemExit(str(error)) from error
        data.transform = transform
        return data

    @torch.inference_mode()
    def top_1(self, data: ImageFolder) -> float:
        self.student.eval()
        if self.world > 1:  # the student that is saved has the statistics of process 0
            for buffer in self.student.buffers():
                dist.broadcast(buffer, 0)
        own = Subset(data, range(self.rank, len(data), self.world))
        right = torch.zeros((), device=self.device)
        for pixels, targets in DataLoader(own, **self.loading):
            with self.autocast():
                classes = self.student(self.normalized(pixels)).argmax(1)
            right += (classes == targets.to(self.device)).sum()
        if self.world > 1:
            dist.all_reduce(right)
        return right.item() / len(data)

    def save(self, seen: int) -> None:
        """Write where training stands: ``seen`` images of this process since the loader began."""
        parts = {"student": self.student, "optimizer": self.optimizer, "scaler": self.scaler}
        state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
        state["sampler"] = self.sampler.state_dict(seen)
        state["options"] = {name: getattr(self.options, name) for name in FIXED}
        if self.rank == 0:
            torch.save(state, self.checkpoint.with_suffix(".partial"))
            self.checkpoint.with_suffix(".partial").replace(self.checkpoint)

    def resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        for name, value in state["options"].items():
            if value != getattr(self.options, name):
                raise SystemExit(f"{self.checkpoint} is of --{name.replace('_', '-')} {value}")
        self.sampler.load_state_dict(state["sampler"])
        self.epoch, self.position = state["sampler"]["epoch"], state["sampler"]["position"]
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def tell(self, text: str) -> None:
        if self.rank == 0:
            print(text, flush=True)


if __name__ == "__main__":
    main()
