"""Light imports, and one place for each library and each kind of work."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys

import pytest

from tests.support.modules import MODULES, ROOT, imports_in, package_of
from tests.support.stores import written


@pytest.mark.parametrize(
    ("library", "places"),
    [
        ("timm", {"labelstore.teachers", "labelstore.operations.demo", "labelstore.torch.timm"}),
        ("zarr", {"labelstore.store.backends.zarr"}),
        ("random", set()),
        ("shutil", {"labelstore.storage"}),
        ("obstore", {"labelstore.storage.remote.requests"}),
        (
            "PIL",
            {
                "labelstore.images",
                "labelstore.pictures",
                "labelstore.torch",
                "labelstore.operations.inspection",
                "labelstore.producer.crops",
                "labelstore.producer.pixel_probe",
                "labelstore.operations.demo",
            },
        ),
        ("ray", {"labelstore.producer.engines"}),
        (
            "torch",
            {
                "labelstore.teachers",
                "labelstore.torch",
                "labelstore.images.preprocessing",
                "labelstore.images.resize_kernels",
                "labelstore.images.resize_on_device",
                "labelstore.peers.exports.fkd",
                "labelstore.producer.crops",
                # The order of some projects' labels is that of torch's own sampler.
                "labelstore.peers.sre2l.orders",
                "labelstore.operations.demo",
                "labelstore.cli",
            },
        ),
    ],
)
def test_one_place_for_each_library(library, places):
    users = {
        name
        for name in MODULES
        if any(part.split(".")[0] == library for part in imports_in(name, ours=False))
    }
    assert [n for n in users if not any(f"{n}.".startswith(f"{p}.") for p in places)] == []


def test_no_thread_parses_python():
    """CPython 3.11 may raise a SystemError where two do at once, and NumPy reads headers so."""
    for name, file in MODULES.items():
        source = file.read_text()
        assert "ast" not in imports_in(name, ours=False), name
        assert "np.load(" not in source, name


def test_files_are_changed_in_one_place():
    changing = [
        "unlink",
        "rename",
        "replace",
        "mkdir",
        "rmdir",
        "write_bytes",
        "write_text",
        "fsync",
    ]
    for name, file in MODULES.items():
        if package_of(name) == "storage":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr not in changing:
                    continue
                owner = ast.unparse(node.func.value)
                is_file = any(word in owner for word in ("path", "file", "os", "folder"))
                assert not is_file, f"{file}: {ast.unparse(node)}"


FLAG = re.compile(r"(?<![\w-])--[a-z]")

OF_OTHER_PROGRAMS = ("GNU tar", "--dereference", "srun --ntasks", "repair --skipped")


def messages(source):
    """String constants of a module, but for docstrings; what f-strings put together is one."""
    nodes = list(ast.walk(ast.parse(source)))
    told = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    told |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(p.value) for p in node.values if isinstance(p, ast.Constant))
        elif isinstance(node, ast.Constant) and id(node) not in told:
            yield str(node.value)


def test_the_librarys_messages_name_no_option_of_a_command():
    """They speak of arguments, and the command that is run adds its options."""
    assert list(messages('"--doc"\nraise UsageError(f"{k}: correct --top-" "k")')) == [
        ": correct --top-k"
    ]
    for name, file in MODULES.items():
        if package_of(name) == "cli":
            continue
        for message in messages(file.read_text()):
            known = any(words in message for words in OF_OTHER_PROGRAMS)
            assert known or not FLAG.search(message), f"{name}: {message!r}"


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


def test_reading_needs_no_torch_and_no_zarr(tmp_path):
    written(tmp_path / "s.zarr")
    code = "import sys, labelstore; labelstore.open(sys.argv[1]).read(0, 0).recover().dense()"
    loaded = loaded_after(code, str(tmp_path / "s.zarr"))
    assert {"numpy", "numcodecs"} <= loaded
    assert not loaded & {"torch", "timm", "PIL", "matplotlib", "zarr"}


def test_looking_at_photos_needs_no_torch(tmp_path):
    written(tmp_path / "s.zarr", images=1, keys=["a.png"])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no photo")
    code = """
import sys
from labelstore.cli.main import main
for arguments in (["check", "photos"], ["doctor", "s.zarr", "--photos", "photos"]):
    assert main(arguments, standalone_mode=False) == 1
"""
    loaded = loaded_after(f"import os\nos.chdir({str(tmp_path)!r})\n{code}")
    assert "PIL" in loaded
    assert not loaded & {"torch", "timm", "matplotlib"}


def mentioned():
    """Dotted names of this library that code, comments and pages speak of, and where."""
    files = [*MODULES.values(), ROOT / "README.md", ROOT / "schemas/SPEC.md"]
    files += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.py")]
    for file in files:
        for name in re.findall(r"`(labelstore(?:\.[A-Za-z_]\w*)+)", file.read_text()):
            yield name, file


def test_every_name_that_is_spoken_of_is_there():
    files_of_others = {"labelstore.json"}
    for name, file in sorted(set(mentioned()), key=str):
        if name in files_of_others:
            continue
        parts = name.split(".")
        value = importlib.import_module("labelstore")
        for depth, part in enumerate(parts[1:], 2):
            path = ".".join(parts[:depth])
            if path in MODULES and not hasattr(value, part):
                importlib.import_module(path)
            assert hasattr(value, part), f"{file} speaks of {name}"
            value = getattr(value, part)


@pytest.mark.parametrize(
    "package",
    ["", *(n for n in sorted(set(map(package_of, MODULES))) if n not in ("", "__main__", "cli"))],
)
def test_every_public_name_can_be_had(package):
    module = importlib.import_module(f"labelstore.{package}".rstrip("."))
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None
