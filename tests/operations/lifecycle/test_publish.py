"""Publishing on a hub, by its real client, and reading from there at a commit."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
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
from labelstore.operations.lifecycle.gc import gc
from labelstore.operations.lifecycle.publish import Publication, publish
from labelstore.operations.merge import merge
from labelstore.operations.pull import pull
from labelstore.operations.verify import verify
from labelstore.storage import swaps
from labelstore.store.lineage import lineage
from tests.support.hub import Hub
from tests.support.stores import files_of, make_planned, once, written

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


def assert_published(url, store, repository, name=None):
    """What is there are the store's labels, and how they came there; the store is as it was."""
    there = labelstore.open(url)
    manifest = dataclasses.replace(there.manifest, origin=store.manifest.origin)
    assert manifest == store.manifest
    assert there.id != store.id
    (*earlier, step) = lineage(there.manifest)
    assert earlier == lineage(store.manifest)
    assert (step["operation"], step["stores"], step["result"]) == ("publish", [store.id], there.id)
    assert step["settings"]["url"] == f"{repository}/{name or store.path.name}"
    assert step["settings"]["labels"] == store.reader.commits_digest()
    assert there.keys == store.keys
    assert np.array_equal(there.targets, store.targets)
    for block in range(store.manifest.num_blocks):
        for ours, theirs in zip(store.block_codes(block), there.block_codes(block), strict=True):
            for key, values in ours.items():
                np.testing.assert_array_equal(values, theirs[key])
    assert verify(there).whole
    assert [entry for entry in os.listdir(store.path.parent) if "publish" in entry] == []


def files_in(folder):
    """Those of a store, without its lock."""
    return [file for file in folder.rglob("*") if file.is_file() and file.name != ".lock"]


def test_what_is_published_is_read_at_its_commit(tmp_path, hub, suffix):
    store, _, _ = written(tmp_path / f"a.{suffix}", class_names=NAMES)
    url = "hf://datasets/me/soft-labels"
    first = told(run("publish", store.path, url, "--private", "--json"))
    assert first["url"] == f"hf://datasets/me/soft-labels@{first['commit']}/a.{suffix}"
    assert (first["card"], first["source_id"]) == ("written", store.id)
    assert hub.repositories["me/soft-labels"].private
    assert hub.put_large
    assert_published(first["url"], store, "hf://datasets/me/soft-labels")
    # The branch goes on, the commit stays.
    hub.repositories["me/soft-labels"].commit("main", {"README.md": b"gone"})
    report = told(
        run("pull", first["url"], tmp_path / f"part.{suffix}", "--views", "0:2", "--json")
    )
    assert report["num_views"] == 2
    history = told(run("inspect", tmp_path / f"part.{suffix}", "--history", "--json"))
    first_step, second = history["steps"]
    assert (first_step["operation"], first_step["stores"]) == ("publish", [store.id])
    assert second["settings"]["published"] == [first["url"]]
    assert second["stores"] == [first["id"]]
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
    assert history["steps"][1]["settings"]["published"] == [pinned]
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
    assert_published(report["url"], store, "hf://datasets/me/labels")
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
    assert_published(report["url"], store, "hf://datasets/me/labels")


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
    assert_published(report.url, other, "hf://datasets/me/labels", "x.zarr")
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


def test_who_publishes_again_sends_the_same_store(tmp_path, hub, monkeypatch):
    store, _, _ = written(tmp_path / "a.zarr")
    before = files_of(store.path)
    first = publish(store, "hf://datasets/me/labels", quiet=True)
    sent = list(hub.put_large)
    # As another release would write it: what is there stays.
    monkeypatch.setattr(labelstore, "__version__", "99")
    second = publish(store, "hf://datasets/me/labels", quiet=True)
    assert (second.id, second.card) == (first.id, "unchanged")
    assert hub.put_large == sent
    assert files_of(store.path) == before
    # A whole copy is the published store, with its history; from there it goes as it is.
    copied = labelstore.open(pull(first.url, tmp_path / "b.zarr").path)
    assert (copied.id, len(lineage(copied.manifest))) == (first.id, 1)
    again = publish(copied, "hf://datasets/me/labels/a.zarr", quiet=True)
    assert (again.id, again.source_id) == (first.id, first.id)
    elsewhere = publish(copied, "hf://datasets/me/others/a.zarr", quiet=True)
    steps = lineage(labelstore.open(elsewhere.url).manifest)
    assert [step["operation"] for step in steps] == ["publish", "publish"]
    assert steps[0]["settings"]["labelstore"] != steps[1]["settings"]["labelstore"] == "99"


def test_a_mean_that_is_published_names_its_teachers(tmp_path, hub):
    members = [written(tmp_path / f"{n}.zarr", seed=n)[0] for n in range(2)]
    merged = labelstore.open(merge(members, tmp_path / "m.zarr").path)
    report = publish(merged, "hf://datasets/me/labels", quiet=True)
    there = labelstore.open(report.url)
    assert there.manifest.teachers == merged.manifest.teachers
    assert [step["operation"] for step in lineage(there.manifest)] == ["merge", "publish"]


def test_a_killed_publication_leaves_what_gc_knows(tmp_path, hub):
    store, _, _ = written(tmp_path / "a.zarr")
    left = swaps.beside(store.path, "publish")
    shutil.copytree(store.path, left)
    (left / "zarr.json").unlink()
    told = gc([store.path], dry_run=True).leftovers
    assert {(part.kind, part.path) for part in told} >= {("sibling", str(store.path))}
    report = publish(store, "hf://datasets/me/labels", quiet=True)
    assert not left.exists()
    assert_published(report.url, store, "hf://datasets/me/labels")
