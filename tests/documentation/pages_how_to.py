"""What the blocks of docs/how-to need but for training loops; `pages` has the rest."""

from __future__ import annotations

from tests.documentation.preparations import Around, Preparation

OTHER_STORE = 'run_command("recode teacher.zarr -o other.zarr --top-k 1")'

HOW_TO = {
    "docs/how-to/many-gpus.md": Preparation(
        around={
            "store.missing_blocks()": Around(after='assert said() == "True []\\n"'),
        },
    ),
    "docs/how-to/fidelity-and-views.md": Preparation(
        around={
            "rule = labelstore.FerKD(low=0.1": Around(after="assert sampler.ferkd.top == 1"),
            "rule.decide(": Around(
                after="""
shown = this_block.strip().splitlines()[-1].removeprefix("# ")
assert said().strip() == shown
"""
            ),
        },
    ),
    "docs/how-to/own-teacher.md": Preparation(
        around={
            '"last.ckpt")': Around(after="assert teacher.num_classes == 3"),
            "save_for_hf(": Around(after="assert said() == \"('amber', 'basil', 'cobalt')\\n\""),
            'load_teacher("python:own_teacher:teacher")': Around(
                after="""
assert said() == "3 ('amber', 'basil', 'cobalt')\\n"
wrapped = load_teacher("python:wrapped_teacher:wrapped")
assert wrapped.preprocessing.interpolation == "bilinear"
"""
            ),
            "teacher.logits(crops)": Around(after='assert said() == "torch.Size([2, 3])\\n"'),
        },
    ),
    "docs/how-to/class-maps.md": Preparation(
        around={
            "imagenet_class_names()": Around(
                after="""
from labelstore.images import read_class_map
assert read_class_map("classes.json") == {"tabby": 281, "golden retriever": 207}
"""
            ),
        },
    ),
    "docs/how-to/check-photos.md": Preparation(
        runs_commands=True,
        around={
            "labelstore check photos": Around(after='assert "JPEG RGB" in printed, printed'),
            "labelstore doctor": Around(after='assert "6 photos by digest" in printed, printed'),
            "diagnose(": Around(after='assert said() == "True []\\nTrue 6\\n"'),
        },
    ),
    "docs/how-to/photo-sources.md": Preparation(
        packages=("datasets",),
        around={
            'labelstore.open_source("photos")': Around(after="assert len(source) == 6"),
            "table.to_parquet(": Around(
                after="""
packed = labelstore.open_source("train.parquet")
assert packed.keys == source.keys
assert [packed.read(n) for n in range(6)] == [source.read(n) for n in range(6)]
import pyarrow.parquet
exec(this_block.replace("batch_size=100", "batch_size=5"))
assert pyarrow.parquet.read_metadata("train.parquet").num_row_groups == 2
"""
            ),
            "store.unreadable()": Around(after='assert said() == "[]\\n"'),
        },
    ),
    "docs/how-to/several-teachers.md": Preparation(
        before=OTHER_STORE,
        around={
            "label.recover()": Around(
                after="assert abs(label.recover().dense().sum(axis=-1) - 1).max() < 1e-5"
            ),
            "labelstore.EnsembleFerKD(": Around(
                after="""
show = next(iter(ViewSampler(data, 4)))
assert abs(data[show][1].dense().sum(1) - 1).max() < 1e-5
"""
            ),
        },
    ),
    "docs/how-to/compare.md": Preparation(
        around={
            '"student.pt"': Around(
                before="""
import timm, torch
torch.manual_seed(0)
torch.save(timm.create_model("test_convnext", num_classes=1000).state_dict(), "student.pt")
""",
                after="""
run_command("generate photos --teacher python:my_student:build --views-from teacher.zarr "
            "--temperature 1 -o student.zarr -q")
run_command("compare teacher.zarr student.zarr --report student.html --photos photos")
assert "the page was written to student.html" in said()
""",
            ),
            '"student.zarr", extremes=3': Around(
                after="""
lines = said().splitlines()
assert lines[0].startswith("views 48 ") and len(lines) == 4, lines
"""
            ),
        },
    ),
    "docs/how-to/after-training.md": Preparation(
        around={
            '"run/last.pth.tar"': Around(
                before="""
import os, timm, torch
from timm.utils import CheckpointSaver
torch.manual_seed(0)
os.mkdir("run")
network = timm.create_model("test_convnext", num_classes=1000)
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
CheckpointSaver(network, optimizer, checkpoint_dir="run").save_checkpoint(0)
""",
                after="""
run_command("generate photos --teacher python:my_student:build --views-from teacher.zarr "
            "-o student.zarr -q")
run_command("compare teacher.zarr student.zarr --report student.html --photos photos")
assert "the page was written to student.html" in said()
""",
            ),
        },
    ),
    "docs/how-to/cloud.md": Preparation(
        packages=("obstore", "moto"),
        before="""
import os
from labelstore.testing.network import S3Server
before = dict(os.environ)
server = S3Server().__enter__()
os.environ.update(server.environment())
server.make_bucket("bucket")
run_command("pull teacher.zarr s3://bucket/teacher.zarr")
""",
        around={
            'labelstore.open("s3://': Around(
                after="""
assert said().startswith("6 [")
server.__exit__(None, None, None)
os.environ.clear()
os.environ.update(before)
"""
            ),
        },
    ),
    "docs/how-to/to-other-projects.md": Preparation(
        packages=("webdataset", "datasets"),
        runs_commands=True,
        around={
            "--to fkd": Around(
                after="""
assert "6 images x 8 views for fkd, 7 files" in printed, printed
import torch
from pathlib import Path
coords, flip, labels = torch.load(sorted(Path("fkd-labels").glob("train/*/*.tar"))[0])
assert (coords.shape, flip.shape, labels.shape) == ((8, 4), (8,), (8, 2, 5))
"""
            ),
            "import webdataset": Around(after='assert "(8, 4)" in said()'),
            "json.loads(": Around(after='assert said().endswith(" 1000\\n")'),
            "load_dataset(": Around(after='assert "48 n" in said()'),
        },
    ),
    "docs/how-to/sql.md": Preparation(
        packages=("duckdb", "pandas"),
        before='run_command("recode teacher.zarr -o teacher.parquet")',
        around={
            "pandas.read_parquet(": Around(after='assert said().endswith("[(48,)]\\n")'),
        },
    ),
    "docs/how-to/errors.md": Preparation(
        around={
            'labelstore.open("gone.zarr")': Around(
                after="""
told = said()
assert told.startswith("not-found | there is no store at ")
assert told.endswith("gone.zarr: check the path.\\n")
"""
            ),
            "store.missing_blocks()": Around(after='assert said().startswith("[] of ")'),
        },
    ),
}
