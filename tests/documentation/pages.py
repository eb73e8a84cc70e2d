"""README and the pages of docs/: their blocks of code, and what these need to run.

A page's Python runs block after block in one namespace, as a reader would go through it. A block
with a title (``title="my_teacher.py"``) is written to a file of that name. Where a block needs more
than stands on the page, or something has to be true after it, an entry here knows it by a part of
one of its lines.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.documentation.pages_how_to import HOW_TO
from tests.documentation.preparations import Around, Preparation

ROOT = Path(__file__).parents[2]

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
"""All pages."""

SMALLER = [
    ("range(300)", "range(2)"),
    ("range(100)", "range(2)"),
    ("num_workers=8", "num_workers=0"),
    ("max_epochs=300", 'max_epochs=1, accelerator="cpu", logger=False'),
    ("{00..99}.tar", "{0..1}.tar"),
    ("EPOCHS, SIZE, WORKERS = 100, 224, 8", "EPOCHS, SIZE, WORKERS = 12, 32, 0"),
    ("(224, 224),  # height and width", "(32, 32),  # height and width"),
    ("resnet50", "test_convnext"),
    ("resnet18", "test_convnext"),
    ("/scratch/teacher", "copy_of_teacher"),
    ("--views 200", "--views 8"),
]
"""What is said on the pages -> what the tests take instead: fewer epochs, smaller networks."""


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    title: str
    """The name of the file that it is; empty where it is none."""
    code: str


def name_of(page: Path) -> str:
    """A page's path below the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page in order."""
    fences = re.finditer(r"^```(\w+)(.*)\n((?:.*\n)*?)```$", page.read_text(), re.MULTILINE)
    blocks = []
    for fence in fences:
        title = re.search(r'title="([^"]+)"', fence[2])
        blocks.append(Block(fence[1], title[1] if title else "", fence[3]))
    return blocks


def smaller(code: str) -> str:
    """Code as it stands on a page, with less to do."""
    for large, small in SMALLER:
        code = code.replace(large, small)
    return code


STUDENT = """
import torch
from torch import nn
student = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 1000))
network = student
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
device = torch.device("cpu")
def network_moved():
    return all(parameter.grad.abs().sum() > 0 for parameter in student.parameters())
"""
"""A student of the 1,000 classes of ImageNet."""

PREPARATIONS = {
    **HOW_TO,
    "README.md": Preparation(
        before=STUDENT,
        around={
            "def build():": Around(
                after="""
torch.save(timm.create_model("test_convnext", num_classes=2).state_dict(), "my_teacher.pt")
assert build()[0](torch.zeros(1, 3, 64, 64)).shape == (1, 2)
"""
            ),
            "loss = soft_cross_entropy(": Around(
                after="""
assert images.shape == (24, 3, 224, 224) and loss.isfinite() and network_moved()
"""
            ),
        },
    ),
    "docs/start.md": Preparation(
        is_alone=True,
        runs_commands=True,
        before="""
import numpy, os, pathlib, runpy, sys, timm, torch
from PIL import Image
sys.path.insert(0, "")
rng = numpy.random.default_rng(0)
for folder, count in (("photos", 8), ("validation", 4)):
    for channel, name in enumerate(("cat", "dog", "horse")):
        place = pathlib.Path(folder, name)
        place.mkdir(parents=True)
        for number in range(count):
            pixels = rng.normal(90, 30, (72, 96, 3))
            pixels[..., channel] += 70
            pixels = pixels.clip(0, 255).astype("uint8")
            Image.fromarray(pixels).save(place / f"{number}.jpg", quality=90)
torch.manual_seed(0)
""",
        around={
            # A teacher that knows the classes: of photos that are mostly red, green or blue.
            "network.load_state_dict(torch.load(": Around(
                before="""
network = timm.create_model("test_convnext", num_classes=3)
network.load_state_dict(network.state_dict())
optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
mean, std = (torch.tensor(values)[:, None, None] for values in (
    (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
for step in range(40):
    classes = torch.arange(24) % 3
    pixels = 90 / 255 + 30 / 255 * torch.randn(24, 3, 32, 32)
    pixels[torch.arange(24), classes] += 70 / 255
    loss = torch.nn.functional.cross_entropy(network((pixels - mean) / std), classes)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.save(network.state_dict(), "my_teacher.pt")
""",
            ),
            "labelstore evaluate validation": Around(
                after='assert "top-1 100.00%" in printed, printed'
            ),
            "labelstore inspect teacher.zarr": Around(
                after="""
assert "top-1 100.00%" in printed and os.path.getsize("report.html") > 100_000
assert "every block is there and as it was committed" in printed
"""
            ),
            "def training_loader(store):": Around(
                after="""
sys.argv = ["train.py"]
runpy.run_path("train.py", run_name="__main__")
lines = said().splitlines()
first, last = (float(line.split("loss ")[1].split(",")[0]) for line in (lines[0], lines[-1]))
assert len(lines) == 12 and last < first, lines
assert float(lines[-1].split("top-1 ")[1].rstrip("%")) > 60, lines
student = timm.create_model("test_convnext", num_classes=3)
student.load_state_dict(torch.load("student.pt", weights_only=True))
"""
            ),
        },
    ),
    "docs/how-to/other-loaders.md": Preparation(
        packages=("litdata",),
        before=STUDENT
        + """
import labelstore
from labelstore.torch import soft_cross_entropy
store = labelstore.open("teacher.zarr")
""",
        around={
            # Which litdata's own processes read again.
            "from litdata import optimize": Around(
                after="""
import subprocess, sys
subprocess.run([sys.executable, "write_litdata.py"], check=True, capture_output=True)
"""
            ),
            "StreamingDataLoader(data, batch_size=64": Around(
                after="""
assert images.shape == (24, 3, 224, 224) and loss.isfinite()
assert sorted(set(target.image.tolist())) == list(range(6))
"""
            ),
        },
    ),
    "docs/how-to/training-loops.md": Preparation(
        packages=("jax", "pytorch_lightning", "webdataset", "datasets"),
        before=STUDENT,
        around={
            'store = labelstore.open("teacher.zarr")': Around(
                after="assert images.shape == (24, 3, 224, 224) and loss.isfinite()"
            ),
            'decode="reduced"': Around(
                after="assert data[next(iter(sampler))][0].shape == (4, 3, 224, 224)"
            ),
            "target = recover(stored": Around(
                after="assert torch.allclose(target.dense().sum(1), torch.ones(24), atol=1e-5)"
            ),
            "ferkd=labelstore.FerKD())\n": Around(after="assert data.ferkd.top == 0.95"),
            "mean_weight(target)": Around(before="target = target.to(device)"),
            "loss = -(p.base": Around(
                before="""
import jax, jax.numpy as jnp
student, pixels = lambda pixels: jnp.zeros((len(pixels), 1000)), lambda batch: batch.box
""",
                after="""
assert abs(float(loss) - float(jnp.log(1000.0))) < 1e-4
student = network
""",
            ),
            "topk = store.read(": Around(
                after="assert soft.base.shape == done.action.shape == (2,)"
            ),
            "trainer.fit(student": Around(
                before="""
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
                after="assert trainer.global_step == 1; student = network",
            ),
            "loader = PrefetchLoader(": Around(
                before="from timm.data.loader import PrefetchLoader",
                after="""
assert images.dtype == torch.float32 and len(images) == len(target) == 24
assert result["loss"].isfinite() and result["task_loss"] > 0 and task.step == 1
""",
            ),
            "stream = webdataset.WebDataset(": Around(
                before="""
import os, tarfile, webdataset
from labelstore.torch import WebDatasetViews
os.makedirs("shards")
for shard in range(2):
    with tarfile.open(f"shards/{shard}.tar", "w") as tar:
        for key in store.keys[shard::2]:
            tar.add(f"photos/{key}", key)
""",
                after="""
assert sum(len(target) for images, target in DataLoader(stream, 5, collate_fn=collate_views)) == 24
""",
            ),
            "views = HuggingFaceViews(": Around(
                before="""
import datasets, pathlib, pyarrow, pyarrow.parquet
from labelstore.torch import HuggingFaceViews
photo_files = [(pathlib.Path("photos", key).read_bytes(), key) for key in store.keys]
rows = [{"bytes": data, "path": key} for data, key in photo_files]
table = pyarrow.table({"image": rows, "key": list(store.keys)})
pyarrow.parquet.write_table(table, "photos/0.parquet")
""",
                after="""
for images, target in loader:
    assert len(images) == len(target) == 24
pathlib.Path("photos/0.parquet").unlink()
""",
            ),
            'recipe = labelstore.recipe("ferkd", store)': Around(
                after="""
import re
assert network_moved()
named = re.findall('"([a-z0-9-]+)"', this_block.splitlines()[0])
assert set(named) == set(labelstore.recipes.RECIPES) - {"kd", "hald"}
for name in named[1:]:
    student.zero_grad()
    exec(this_block.replace('"ferkd"', f'"{name}"', 1))
    assert network_moved()
"""
            ),
            "copy_of_teacher": Around(
                before='run_command("materialize teacher.zarr copy_of_teacher")',
                after="assert store.read([3], [5]).indices.shape == (1, store.k)",
            ),
        },
    ),
}
"""What pages need. A page that is not here has blocks that need nothing."""
