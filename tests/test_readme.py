"""README's Python, as it stands there, over a store that its first command made.

Only numbers are smaller: photos, epochs, workers, shards. Each block is known by a line of it, so
that one that is new or changed asks for its preparation here.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import commands
import pytest

README = Path(__file__).parent.parent / "README.md"

SMALLER = [
    ("range(300)", "range(2)"),
    ("num_workers=8", "num_workers=0"),
    ("max_epochs=300", 'max_epochs=1, accelerator="cpu", logger=False'),
    ("{00..99}.tar", "{0..1}.tar"),
]

# A line of each block -> what a reader has before it.
BEFORE = {
    "loss = soft_cross_entropy(student(images.to(device)), target.to(device))": """
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
device = "cpu"
student = torch.nn.Sequential(
    torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 1000)
)
""",
    "mix, loss = ferkd.build_mixing(), ferkd.build_loss()": "",
    "loss = -(p.base * logq.sum(1) + (p.weights * picked).sum(1)).mean()": """
import jax, jax.numpy as jnp
network, student = student, lambda pixels: jnp.zeros((len(pixels), 1000))
pixels = lambda batch: batch.box
""",
    "trainer.fit(student, datamodule=module)  # training_step gets (images, target)": """
from pytorch_lightning import LightningModule, Trainer
class Student(LightningModule):
    def __init__(self):
        super().__init__()
        self.network = network
    def training_step(self, batch, _):
        images, target = batch
        return soft_cross_entropy(self.network(images), target)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
student = Student()
""",
    "loader = PrefetchLoader(loader, mean=teacher": """
from timm.data.loader import PrefetchLoader
from labelstore.images.sources.choose import open_source
photos = open_source("photos")
device = torch.device("cpu")
""",
    "stream = webdataset.WebDataset(": """
import datasets, io, os, pathlib, pyarrow, pyarrow.parquet, tarfile, webdataset
from labelstore.torch import HuggingFaceViews, WebDatasetViews
os.makedirs("shards")
for shard in range(2):
    with tarfile.open(f"shards/{shard}.tar", "w") as tar:
        for key in store.keys[shard::2]:
            tar.add(f"photos/{key}", key)
data = [(pathlib.Path("photos", key).read_bytes(), key) for key in store.keys]
table = {"image": [{"bytes": data, "path": key} for data, key in data], "key": list(store.keys)}
pyarrow.parquet.write_table(pyarrow.table(table), "photos/0.parquet")
""",
}

# What must be true after a block.
AFTER = {
    "loss = soft_cross_entropy(": "assert images.shape == (24, 3, 224, 224) and loss.isfinite()",
    "mix, loss = ferkd.build_mixing(": "assert network_moved()",
    "loss = -(p.base * logq.sum(1)": "assert abs(float(loss) - float(jnp.log(1000.0))) < 1e-4",
    "trainer.fit(student": "assert trainer.global_step == 1",
    "loader = PrefetchLoader(": """
for images, target in loader:
    assert images.dtype == torch.float32 and len(images) == len(target) == 24
""",
    "stream = webdataset.WebDataset(": """
for images, target in loader:
    assert len(images) == len(target) == 24
assert sum(len(target) for images, target in DataLoader(stream, 5, collate_fn=collate_views)) == 24
""",
}

PREPARE = """
import warnings
import torch
warnings.simplefilter("ignore")
torch.manual_seed(0)


def network_moved():
    return all(parameter.grad.abs().sum() > 0 for parameter in student.parameters())
"""


def blocks():
    """README's Python blocks, and the line that each is known by."""
    found = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    known = []
    for block in found:
        lines = [line for line in BEFORE if line in block]
        assert len(lines) == 1, f"a block of README is not prepared here:\n{block}"
        known.append((lines[0], block))
    assert [line for line, _ in known] == list(BEFORE)
    return known


def test_its_python_runs(tmp_path):
    for extra in ("jax", "pytorch_lightning", "webdataset", "datasets"):
        pytest.importorskip(extra)
    parts = [PREPARE]
    for line, block in blocks():
        for large, small in SMALLER:
            block = block.replace(large, small)
        after = next(check for start, check in AFTER.items() if line.startswith(start))
        parts += [BEFORE[line], block, after, f"print({json.dumps(line)}, flush=True)"]
    make = """
from labelstore.operations.demo import place_photos, place_teacher
from pathlib import Path
place_photos(Path("photos"))
for photo in sorted(Path("photos").glob("*/*"), key=lambda photo: photo.name)[6:]:
    photo.unlink()
    if not any(photo.parent.iterdir()):
        photo.parent.rmdir()
place_teacher("tf_efficientnet_lite0", Path("lite0.safetensors"))
"""
    python = [sys.executable, "-c"]
    commands.run([*python, make], cwd=tmp_path, check=True)
    command = "generate photos --teacher timm:tf_efficientnet_lite0 --views 8 -o teacher.zarr"
    assert command.replace("--views 8", "--views 200") in README.read_text()
    commands.run(
        [sys.executable, "-m", "labelstore", *command.split(), "--checkpoint", "lite0.safetensors"],
        cwd=tmp_path,
        check=True,
    )
    done = commands.run([*python, "\n".join(parts)], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(line in done.stdout for line in BEFORE)
