"""Imports: light, and in one direction."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from core_data import written

ROOT = Path(__file__).parent.parent

# What stands on what: a module imports only from its own layer or those below (larger numbers).
LAYERS = [
    {"cli", "__main__"},
    {"demo", "forecast", "precheck", "repair"},
    {"recipes"},
    {"torch"},
    {"batching"},
    {"curriculum", "dry_run", "epochs", "prefetch", "recovery"},
    {
        "evaluate",
        "generate",
        "inspect",
        "materialize",
        "merge",
        "passing",
        "plan",
        "pull",
        "recode",
        "testing",
        "verify",
    },
    {"ray_engine"},
    {"ray_worker"},
    {"running"},
    {"probes"},
    {"pipeline"},
    {"cutting", "forward"},
    {"teachers"},
    {"timm_networks"},
    {"checkpoints"},
    {"inference"},
    {
        "device_resize",
        "devices",
        "memory",
        "outputs",
        "preprocessing",
        "staging",
        "topk",
        "weights",
    },
    {"mixing"},
    {"ensembles", "writer", "schedule", "walk"},
    {"blocks", "fidelity"},
    {"store"},
    {"slabs"},
    {"slab"},
    {"reading"},
    {"validity"},
    {"chunk_files", "pool"},
    {"backends"},
    {"encoding", "calibrate", "sources"},
    {"tar_source", "parquet_source", "reduced"},
    {"images"},
    {"folder_source", "targets"},
    {"source_files", "source_classes", "parquet_columns"},
    {"tar_members", "file_patterns", "formats", "passed_over"},
    {"manifest"},
    {"temperature"},
    {"distinct"},
    {"labels", "codecs", "views", "mixing_draws"},
    {"shared"},
    {
        "ahead",
        "launch",
        "leases",
        "prior",
        "philox",
        "files",
        "foreign",
        "schemas",
        "objects",
        "parquet_footer",
        "parquet_pages",
        "thrift",
        "remote",
        "remote_requests",
        "transfers",
        "forked",
        "numbering",
    },
    {"private"},
    {"errors"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def modules():
    for folder, prefix in ((ROOT / "labelstore", ()), (ROOT / "cli", ("cli",))):
        for file in folder.rglob("*.py"):
            parts = (*prefix, *file.relative_to(folder).with_suffix("").parts)
            if parts != ("__init__",):
                yield parts[0], file


def imports_of(source):
    """Names imported at run time, wherever they stand in a module: full dotted names."""
    tree = ast.parse(source)
    typing = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def upward(part, source):
    return [
        name
        for name in imports_of(source)
        if name.startswith("labelstore.") and LAYER.get(name.split(".")[1], 99) < LAYER[part]
    ]


def test_every_module_has_its_layer_and_imports_point_down():
    for part, file in modules():
        assert part in LAYER, f"{file} stands in no layer"
        assert upward(part, file.read_text()) == [], file


def test_the_check_can_fail():
    assert upward("store", "from labelstore.torch import loss") == [
        "labelstore.torch",
        "labelstore.torch.loss",
    ]
    assert upward("labels", "def f():\n    import labelstore.store") == ["labelstore.store"]
    assert upward("store", "if TYPE_CHECKING:\n    import labelstore.torch") == []


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("timm", {"checkpoints", "timm_networks", "demo"}),
        ("zarr", {"backends"}),
        ("random", set()),
        ("shutil", {"files"}),
        (
            "torch",
            {
                "teachers",
                "timm_networks",
                "checkpoints",
                "devices",
                "inference",
                "preprocessing",
                "outputs",
                "memory",
                "weights",
                "topk",
                "forward",
                "staging",
                "device_resize",
                "torch",
                "demo",
                "cli",
            },
        ),
        ("ray", {"ray_engine", "ray_worker"}),
    ],
)
def test_one_place_for_each_library(package, allowed):
    users = {
        part
        for part, file in modules()
        if any(name.split(".")[0] == package for name in imports_of(file.read_text()))
    }
    assert users <= allowed


def test_no_thread_parses_python():
    """CPython 3.11 may raise a SystemError where two do at once, and NumPy reads headers so."""
    for part, file in modules():
        source = file.read_text()
        assert "ast" not in set(imports_of(source)), part
        assert "np.load(" not in source, part


def test_files_are_changed_in_one_place():
    changing = {
        "unlink",
        "rename",
        "replace",
        "mkdir",
        "rmdir",
        "write_bytes",
        "write_text",
        "fsync",
    }
    for part, file in modules():
        if part == "files":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name, owner = node.func.attr, ast.unparse(node.func.value)
                is_file = any(word in owner for word in ("path", "file", "os", "folder"))
                assert not (name in changing and is_file), f"{file}: {ast.unparse(node)}"


def loaded_after(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_is_light():
    assert not loaded_after("import labelstore") & {"numpy", "torch", "zarr", "click", "PIL"}
    assert not loaded_after("import labelstore.cli.main") & {"numpy", "torch", "zarr", "rich"}


def test_reading_needs_no_torch(tmp_path):
    written(tmp_path / "s.zarr")
    code = "import sys, labelstore; labelstore.open(sys.argv[1]).read(0, 0).recover().dense()"
    loaded = loaded_after(code, str(tmp_path / "s.zarr"))
    assert {"numpy", "zarr"} <= loaded
    assert not loaded & {"torch", "timm", "PIL", "matplotlib"}
