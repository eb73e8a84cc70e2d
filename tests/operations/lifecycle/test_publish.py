"""Publishing on a hub, by its real client, and reading from there at a commit."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from huggingface_hub import constants

import labelstore
from labelstore.cli.main import main
from labelstore.errors import CorruptError, IncompleteError, UsageError
from labelstore.operations.lifecycle.publish import Publication, publish
from tests.support.hub import Hub
from tests.support.stores import make_planned, once, read_everything, written

make_planned, written = once(make_planned), once(written)

# What the hub's own client does inside.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAMES = tuple(f"class {number}" for number in range(30))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with Hub() as server:
        for name, value in server.environment(tmp_path / "hf").items():
            monkeypatch.setenv(name, value)
        # Read when the client was imported, which another test may have done.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)])


def told(done):
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def files_in(folder):
    """Those of a store, without its lock."""
    return [file for file in folder.rglob("*") if file.is_file() and file.name != ".lock"]


def test_what_is_published_is_read_at_its_commit(tmp_path, hub, suffix):
    store, _, _ = written(tmp_path / f"a.{suffix}", class_names=NAMES)
    url = "hf://datasets/me/soft-labels"
    first = told(run("publish", store.path, url, "--private", "--json"))
    assert first["url"] == f"hf://datasets/me/soft-labels@{first['commit']}/a.{suffix}"
    assert (first["card"], first["id"]) == ("written", store.id)
    assert hub.repositories["me/soft-labels"].private
    assert hub.put_large
    assert read_everything(first["url"]) == read_everything(store.path)
    # The branch goes on, the commit stays.
    hub.repositories["me/soft-labels"].commit("main", {"README.md": b"gone"})
    report = told(
        run("pull", first["url"], tmp_path / f"part.{suffix}", "--views", "0:2", "--json")
    )
    assert report["num_views"] == 2
    history = told(run("inspect", tmp_path / f"part.{suffix}", "--history", "--json"))
    assert history["steps"][0]["settings"]["published"] == [first["url"]]
    assert history["steps"][0]["stores"] == [store.id]
    part = labelstore.open(tmp_path / f"part.{suffix}")
    ours, theirs = (s.read(np.arange(20)[:, None], np.arange(2)) for s in (store, part))
    assert np.array_equal(ours.indices, theirs.indices)
    assert np.array_equal(ours.probs, theirs.probs)


def test_a_branch_is_read_at_the_commit_that_it_has(tmp_path, hub):
    store, _, _ = written(tmp_path / "a.zarr")
    report = publish(store, "hf://datasets/me/labels", Publication(revision="v2"), quiet=True)
    assert hub.repositories["me/labels"].files("main").keys() == {".gitattributes"}
    told(
        run(
            "pull",
            "hf://datasets/me/labels@v2/a.zarr",
            tmp_path / "b.zarr",
            "--views",
            "0:3",
            "--json",
        )
    )
    history = told(run("inspect", tmp_path / "b.zarr", "--history", "--json"))
    pinned = f"hf://datasets/me/labels@{report.commit}/a.zarr"
    assert history["steps"][0]["settings"]["published"] == [pinned]
    assert pinned in run("inspect", tmp_path / "b.zarr", "--history").stdout
    # Labels that are the same are gone on with, though the branch has another commit.
    files = hub.repositories["me/labels"].files("v2")
    hub.repositories["me/labels"].commit("v2", files | {"README.md": b"mended"})
    url = "hf://datasets/me/labels@v2/a.zarr"
    again = told(run("pull", url, tmp_path / "b.zarr", "--views", "0:3", "--json"))
    assert again["blocks_copied"] == 0
    assert again["source"] != pinned


def test_an_interrupted_upload_goes_on_and_shows_no_store_before_its_end(tmp_path, hub):
    store, _, _ = written(tmp_path / "a.zarr")
    hub.refuse_commit = lambda branch, files: "a.zarr/zarr.json" in files
    done = run("publish", store.path, "hf://datasets/me/labels", "--json")
    assert done.exit_code == 1
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "store"
    assert "run the same command again" in error["message"]
    assert "Traceback" not in done.stderr
    files = hub.repositories["me/labels"].files()
    assert any(name.startswith("a.zarr/labels/") for name in files)
    assert "a.zarr/zarr.json" not in files
    assert "README.md" not in files
    hub.refuse_commit = lambda branch, files: False
    sent = list(hub.put_large)
    report = told(run("publish", store.path, "hf://datasets/me/labels", "--json"))
    assert read_everything(report["url"]) == read_everything(store.path)
    assert len(hub.put_large) == len(set(hub.put_large))
    assert set(sent) <= set(hub.put_large)
    assert set(hub.repositories["me/labels"].files()) == {
        *(f"a.zarr/{file.relative_to(store.path).as_posix()}" for file in files_in(store.path)),
        *(".gitattributes", "README.md", "preview.parquet"),
    }


@pytest.mark.slow
def test_the_clients_own_pipeline_for_folders(tmp_path, hub, monkeypatch):
    """What the client does where hf_xet is installed: several commits, of small files here."""
    pytest.importorskip("hf_xet")
    monkeypatch.delenv("HF_HUB_DISABLE_XET")
    hub.large_from = 1 << 30
    store, _, _ = written(tmp_path / "a.zarr")
    # A new interpreter: the client reads this variable when it is imported.
    command = [sys.executable, "-m", "labelstore", "publish", str(store.path)]
    done = subprocess.run(
        [*command, "hf://datasets/me/labels", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert hub.put_large == []
    assert read_everything(report["url"]) == read_everything(store.path)


def test_other_labels_are_refused_and_replaced_only_when_asked(tmp_path, hub):
    store, _, _ = written(tmp_path / "a.zarr")
    other, _, _ = written(tmp_path / "other.zarr", images=9, seed=1)
    publish(store, "hf://datasets/me/labels/x.zarr", quiet=True)
    repository = hub.repositories["me/labels"]
    before = repository.files()
    done = run("publish", other.path, "hf://datasets/me/labels/x.zarr", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["kind"] == "mismatch"
    assert repository.files() == before
    # A card of one's own is kept.
    repository.commit("main", before | {"README.md": b"mine"})
    again = publish(store, "hf://datasets/me/labels/x.zarr", quiet=True)
    assert again.card == "kept"
    assert repository.files()["README.md"] == b"mine"
    how = Publication(overwrite=True)
    report = publish(other, "hf://datasets/me/labels/x.zarr", how, quiet=True)
    assert report.card == "written"
    assert read_everything(report.url) == read_everything(other.path)
    below = {name for name in repository.files() if name.startswith("x.zarr/")}
    assert len(below) == report.files


def test_files_that_the_hub_leaves_out_make_no_store(tmp_path, hub):
    store, _, _ = written(tmp_path / "a.zarr")
    hub.ignore = lambda path: path.endswith("labels/classes/zarr.json")
    done = run("publish", store.path, "hf://datasets/me/labels")
    assert done.exit_code == 1
    assert "lacks 1 of" in done.stderr
    assert "a.zarr/zarr.json" not in hub.repositories["me/labels"].files()


def test_a_card_of_ones_own_is_taken(tmp_path, hub):
    store, _, _ = written(tmp_path / "a.zarr")
    (tmp_path / "mine.md").write_text("---\nlicense: mit\n---\nmine")
    url = "hf://datasets/me/labels"
    done = run("publish", store.path, url, "--card", tmp_path / "mine.md")
    assert done.exit_code == 0
    assert "TO FILL" not in done.stderr
    assert hub.repositories["me/labels"].files()["README.md"].endswith(b"mine")
    done = run("publish", store.path, url, "--card", tmp_path / "mine.md", "--license", "mit")
    assert done.exit_code == 2
    assert run("publish", store.path, url, "--card", tmp_path / "none.md").exit_code == 2


def test_private_is_no_promise_that_is_broken(tmp_path, hub):
    store, _, _ = written(tmp_path / "a.zarr")
    publish(store, "hf://datasets/me/labels/one.zarr", quiet=True)
    before = hub.repositories["me/labels"].files()
    done = run("publish", store.path, "hf://datasets/me/labels/two.zarr", "--private")
    assert done.exit_code == 1
    assert "is public and a private one was asked for" in done.stderr
    assert hub.repositories["me/labels"].files() == before


def test_who_may_not_write_is_told_so(tmp_path, hub, monkeypatch):
    store, _, _ = written(tmp_path / "a.zarr")
    monkeypatch.setenv("HF_TOKEN", "another")
    done = run("publish", store.path, "hf://datasets/me/labels", "--json")
    assert done.exit_code == 1
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "not-found"
    assert "set HF_TOKEN" in error["message"]


def test_nothing_is_asked_in_a_dry_run(tmp_path, hub):
    store, _, _ = written(tmp_path / "a.zarr")
    report = told(run("publish", store.path, "hf://datasets/me/labels", "--dry-run", "--json"))
    files = files_in(store.path)
    assert report["files"] == len(files)
    assert report["bytes"] == sum(file.stat().st_size for file in files)
    assert report["commit"] is None
    assert hub.requests == []


def test_what_is_not_whole_is_not_published(tmp_path, hub):
    unfinished, _ = make_planned(tmp_path / "a.zarr", blocks=[0])
    with pytest.raises(IncompleteError):
        publish(unfinished, "hf://datasets/me/labels")
    store, _, _ = written(tmp_path / "b.zarr")
    files = (file for file in files_in(store.path / "labels") if file.name != "zarr.json")
    shard = max(files, key=lambda file: file.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 255
    shard.write_bytes(data)
    with pytest.raises(CorruptError, match="was not published"):
        publish(store.path, "hf://datasets/me/labels")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("url", "how"),
    [
        ("https://example.com/a.zarr", Publication()),
        ("hf://models/me/labels", Publication()),
        ("hf://datasets/me/labels@v1", Publication(revision="v2")),
        (f"hf://datasets/me/labels@{'a' * 40}", Publication()),
        ("s3://bucket/a.zarr", Publication(private=True)),
    ],
)
def test_places_that_are_none_are_refused(tmp_path, url, how):
    store, _, _ = written(tmp_path / "a.zarr")
    with pytest.raises(UsageError):
        publish(store, url, how, dry_run=True)


def test_the_preview_says_what_the_store_says(tmp_path, hub):
    targets = np.arange(20) % 30
    targets[3] = -1
    store, _, _ = written(tmp_path / "a.zarr", class_names=NAMES, targets=targets)
    publish(store, "hf://datasets/me/labels", quiet=True)
    files = hub.repositories["me/labels"].files()
    rows = pq.read_table(io.BytesIO(files["preview.parquet"])).to_pylist()
    assert len(rows) == 20 * 4
    for row in rows:
        image = int(store.index_of(row["key"]))
        label = store.read(image, row["view"])
        assert row["classes"] == label.indices.tolist()
        assert row["names"] == [f"class {number}" for number in row["classes"]]
        assert row["probabilities"] == label.probs.tolist()
        assert row["target"] == (None if image == 3 else targets[image])
        assert row["box"] == store.views(image, row["view"]).box.tolist()
    # The card has the hub's viewer show it.
    assert 'config_name: preview\n  data_files: "preview.parquet"' in files["README.md"].decode()
