"""Installing: reading without torch, what the messages tell to install, what a wheel holds."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import labelstore
from labelstore.errors import MissingPackageError, install_from_checkout, require_packages
from tests.support.stores import written

ROOT = Path(__file__).parents[2]
READER = ROOT / "tests/support/light_reader.py"


def settings():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def lines_of(text):
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_all_that_reads_does_without_torch_and_the_rest_says_what_to_install(tmp_path):
    done = subprocess.run(
        [sys.executable, READER, tmp_path, "--block"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert Path(report["home"]) == Path(labelstore.__file__)
    # More than these would not prove what is promised, fewer neither.
    assert sum(name.startswith("needs ") for name in report["commands"]) == 9
    assert "first.zarr" in report["commands"]["inspect"][1]


RUN_PAGE = """
import sys
from pathlib import Path
from tests.support import light_reader
light_reader.block()
light_reader.make(Path())
Path("first.zarr").rename("teacher.zarr")
exec(sys.argv[1])
assert images.shape == (4, 224, 224, 3) and len(labels.weights) == 4
"""


def test_the_pages_example_runs_without_torch(tmp_path):
    page = ROOT / "docs" / "how-to" / "reading-without-torch.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    subprocess.run(
        [sys.executable, "-c", RUN_PAGE, "\n".join(blocks)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_the_page_says_what_a_command_says(tmp_path):
    page = (ROOT / "docs" / "how-to" / "reading-without-torch.md").read_text()
    with pytest.raises(MissingPackageError) as caught:
        require_packages("a teacher", "no_torch", "no_timm")
    assert f"Error: {caught.value}".replace("no-", "") in page
    assert "`missing-package`" in page


FROM_A_URL = """
import sys
from pathlib import Path
from tests.support import light_reader
light_reader.ABSENT -= {"obstore"}
light_reader.block()
import labelstore
from labelstore.operations.pull import pull
from labelstore.testing.network import FileServer
from labelstore.operations.verify import verify
folder = Path(sys.argv[1])
with FileServer(folder) as server:
    store = labelstore.open(f"{server.address}/a.zarr")
    assert verify(store).whole
    assert pull(store, folder / "copy.zarr").num_images == 20
assert not light_reader.ABSENT & {name.split(".")[0] for name in sys.modules}
"""


def test_behind_urls_obstore_is_all_that_is_needed_besides(tmp_path):
    written(tmp_path / "a.zarr")
    subprocess.run(
        [sys.executable, "-c", FROM_A_URL, tmp_path],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert labelstore.open(tmp_path / "copy.zarr").num_views == 6


WITHOUT_PYARROW = """
import sys
from pathlib import Path
from tests.support import light_reader
light_reader.ABSENT |= {"pyarrow"}
light_reader.block()
import labelstore
from labelstore.images.sources.choose import open_source
from labelstore.operations.verify import verify
folder = Path(sys.argv[1])
store = labelstore.open(folder / "a.zarr")
assert verify(store).whole
batches = labelstore.Batches(store, batch_size=5, views_per_image=2, ferkd=labelstore.FerKD())
assert [len(batch) for batch in batches.epoch(0)] == [10] * 4
(folder / "photos.parquet").write_bytes(b"PAR1")
for attempt in (lambda: labelstore.open(folder / "a.parquet"),
                lambda: open_source(folder / "photos.parquet")):
    try:
        attempt()
    except labelstore.errors.MissingPackageError as error:
        assert "in Parquet needs pyarrow, not installed here" in str(error)
    else:
        raise SystemExit("was read")
"""


def test_stores_in_zarr_do_without_pyarrow(tmp_path):
    for suffix in ("zarr", "parquet"):
        written(tmp_path / f"a.{suffix}")
    subprocess.run(
        [sys.executable, "-c", WITHOUT_PYARROW, tmp_path],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


WITHOUT_JSONSCHEMA = """
import sys
sys.modules["jsonschema"] = None
import labelstore
try:
    labelstore.open(sys.argv[1])
except ModuleNotFoundError as error:
    assert error.name == "jsonschema"
else:
    raise SystemExit("was opened")
"""


def test_a_library_that_is_missing_is_no_damage(tmp_path):
    written(tmp_path / "a.zarr")
    subprocess.run([sys.executable, "-c", WITHOUT_JSONSCHEMA, tmp_path / "a.zarr"], check=True)


def test_the_readers_requirements_are_a_part_of_all():
    everything = lines_of(settings()["options"]["install_requires"])
    reader = lines_of((ROOT / "requirements-reader.txt").read_text())
    heavy = {re.split(r"\W", line)[0] for line in set(everything) - set(reader)}
    assert set(reader) < set(everything)
    assert heavy == {"PyYAML", "matplotlib", "safetensors", "timm", "torch", "torchvision"}


def test_the_list_of_packages_is_that_of_the_folders():
    listed = lines_of(settings()["options"]["packages"])
    folders = {"labelstore": ROOT / "labelstore"}
    folders |= {f"labelstore.{name}": ROOT / name for name in ("cli", "schemas")}
    packages = {
        ".".join((package, *file.parent.relative_to(folder).parts))
        for package, folder in folders.items()
        for file in folder.rglob("*.py")
    }
    assert sorted(listed) == sorted(packages)
    for package, folder in folders.items():
        for file in folder.rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), f"{package}: {file}"


def test_an_error_of_what_is_missing_is_an_import_error_with_its_mend(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no_such_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    require_packages("this test", "pytest")
    with pytest.raises(ImportError) as caught:
        require_packages("this", "pytest", "no_such_package", "nor_this", "or_that", extra="remote")
    assert isinstance(caught.value, MissingPackageError)
    assert (caught.value.kind, caught.value.exit_code) == ("missing-package", 1)
    assert str(caught.value) == (
        "this needs no-such-package, nor-this and or-that, not installed here: pip install "
        'no-such-package nor-this or-that, or pip install ".[remote]" in labelstore\'s checkout.'
    )


# On the public index the name belongs to another project.
BY_NAME = re.compile(
    r"labelstore\[(?![\w,]+\] @ )"
    r"|(pip|uv|conda|poetry) (install|add) [^`&;#]*?(?<![\w./-])labelstore\b(?!'|(\[[\w,]+\])? @ )"
)


def test_nothing_tells_to_install_labelstore_by_its_name():
    places = ("labelstore", "cli", "schemas", "benchmarks", "docs", "examples", ".ci")
    files = [ROOT / name for name in ("README.md", "CHANGELOG.md", "requirements-reader.txt")]
    for place in places:
        files += [file for file in (ROOT / place).rglob("*") if file.is_file()]
    texts = [file for file in files if file.suffix in ("", ".py", ".md", ".txt", ".ipynb", ".yml")]
    assert len(texts) > 100
    for file in texts:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            assert not BY_NAME.search(line), f"{file}:{number}: {line}"
    for told in (
        'pip install "labelstore[remote]"',
        "pip install labelstore",
        "pip install -U labelstore obstore",
        "uv add labelstore",
        "needs labelstore[ray].",
    ):
        assert BY_NAME.search(told), told
    for right in (
        install_from_checkout(),
        install_from_checkout("remote"),
        'pip install "labelstore[remote] @ git+https://example.org/labelstore"',
        "pip install . && labelstore demo",
    ):
        assert not BY_NAME.search(right), right


def test_every_extra_that_a_message_names_exists():
    extras = settings()["options.extras_require"]
    named = set()
    for place in ("labelstore", "cli", "benchmarks"):
        for file in (ROOT / place).rglob("*.py"):
            text = file.read_text()
            named |= set(re.findall(r"""extra=["'](\w+)["']""", text))
            named |= set(re.findall(r"""install_from_checkout\(["'](\w+)["']\)""", text))
    assert {"demo", "lightning", "ray", "remote"} <= named <= set(extras)
