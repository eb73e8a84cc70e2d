"""``--thresholds fit`` wherever FerKD's thresholds are taken."""

from __future__ import annotations

import json
import re
from importlib import resources

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

import labelstore
from labelstore.cli.main import main
from labelstore.errors import PartialDataWarning
from labelstore.labels.actions import Action
from labelstore.labels.ferkd import FerKD
from labelstore.operations.inspection.inspect import report
from labelstore.operations.schedule import dry_run
from tests.support.stores import make_planned, once, written

make_planned, written = once(make_planned), once(written)

FLAGS = re.compile(r"thresholds that fit (\S+): (--low \S+ --middle \S+ --top \S+)")


@pytest.fixture
def stores(tmp_path):
    """Two teachers of 40 x 25 crops, all of 30 classes known."""
    made = [
        written(tmp_path / f"{name}.zarr", images=40, views=25, seed=seed)[0]
        for name, seed in (("a", 0), ("b", 3))
    ]
    assert FerKD.fit(made[0]) != FerKD.fit(made[1])
    return made


def run(*arguments, code=0):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


def said(done):
    """The flags that a command told, of each store."""
    return {path: flags.split() for path, flags in FLAGS.findall(done.stderr)}


@pytest.mark.parametrize(
    "command", [("inspect", "A"), ("schedule", "A"), ("show", "A", 3), ("compare", "A", "B")]
)
def test_the_flags_that_are_told_do_the_same(stores, command):
    words = [{"A": stores[0].path, "B": stores[1].path}.get(word, word) for word in command]
    fitted = run(*words, "--thresholds", "fit", "--json")
    told = said(fitted)
    assert list(told) == [str(stores[0].path)]
    again = run(*words, *told[str(stores[0].path)], "--json")
    assert json.loads(again.stdout) == json.loads(fitted.stdout)
    assert not said(again)
    rule = FerKD.fit(stores[0])
    assert told[str(stores[0].path)][1::2] == [str(rule.low), str(rule.middle), str(rule.top)]
    assert json.loads(run(*words, "--json").stdout) != json.loads(fitted.stdout)


def test_inspect_tells_the_paper_s_thresholds_and_those_that_fit(stores):
    store = stores[0]
    rule, plane = FerKD.fit(store), store.confidence()
    told = report(store)["fitted"]
    assert (told["low"], told["middle"], told["top"]) == (rule.low, rule.middle, rule.top)
    counts = vars(rule.count(plane))
    assert told["shares"] == {name: count / plane.size for name, count in counts.items()}
    shown = run("inspect", store.path).stdout
    (part,) = re.findall(r"those that fit this teacher\n(.*?)\n\n", shown, re.DOTALL)
    paper = vars(FerKD().count(plane))
    rows = dict(re.findall(r"^(\w.*?)  +(.*?) *$", part, re.MULTILINE))
    assert rows["low"].split() == ["0.15", str(rule.low)]
    assert rows["top"].split() == ["0.95", str(rule.top)]
    for name, words in (("calibrated", "calibrated"), ("discarded_high", "discarded (too easy)")):
        shares = [100 * parts[name] / plane.size for parts in (paper, counts)]
        assert rows[words].split() == [f"{part:.2f}%" for part in shares]
    # A part of the crops gives no exact thresholds, and other confidences no such ones.
    assert report(store, sample=6)["fitted"] is None
    assert "those that fit" not in run("inspect", store.path, "--confidence", "target").stdout


@pytest.mark.parametrize("ensemble", ["all", "any"])
def test_each_teacher_of_a_schedule_has_its_own(stores, ensemble):
    paths = [store.path for store in stores]
    words = ("--thresholds", "fit", "--ensemble", ensemble)
    done = run("schedule", *paths, *words, "--json")
    both = labelstore.ensemble(paths)
    rule = FerKD.fit(both, ensemble=ensemble)
    assert json.loads(done.stdout) == json.loads(json.dumps(dry_run(both, rule)))
    assert list(said(done)) == [str(path) for path in paths]
    shown = run("schedule", *paths, *words).stdout
    for own in rule.rules:
        assert f"low {own.low:g}, middle {own.middle:g}, top {own.top:g}" in " ".join(shown.split())
    refused = run("schedule", *paths, "--thresholds", "fit", "--ensemble", "mean", code=2)
    assert "mean label are not stored" in refused.stderr


def test_merge_calibrates_each_teacher_by_its_own(stores, tmp_path):
    paths = [store.path for store in stores]
    words = ("merge", *paths, "--calibrate", "--thresholds", "fit", "--smoothing", 0.2)
    done = run(*words, "-o", tmp_path / "m.zarr")
    assert list(said(done)) == [str(path) for path in paths]
    both = labelstore.ensemble(paths)
    rule = FerKD.fit(both, smoothing=0.2)
    settings = labelstore.open(tmp_path / "m.zarr").manifest.origin["settings"]
    assert [part["low"] for part in settings["ferkd"]["rules"]] == [own.low for own in rule.rules]
    expected = rule.apply(both.read(np.arange(40)[:, None], np.arange(25)), both.targets[:, None])
    stored = labelstore.open(tmp_path / "m.zarr").read(np.arange(40)[:, None], np.arange(25))
    largest = expected.labels.dense().argmax(-1)
    assert np.mean(largest == stored.indices[..., 0]) > 0.99
    # The same command goes on with what is there, and so comes to the same thresholds.
    assert run(*words, "-o", tmp_path / "m.zarr", "--json").exit_code == 0
    assert not said(run(*words, "-o", tmp_path / "quiet.zarr", "--quiet"))


@pytest.fixture
def classed(tmp_path):
    """Two teachers of 40 x 60 crops, of which two classes have enough and one has too few."""
    targets = np.resize([0, 1], 40)
    targets[:6] = 2
    return [
        written(tmp_path / f"{name}.zarr", 40, views=60, seed=seed, classes=9, targets=targets)[0]
        for name, seed in (("a", 0), ("b", 3))
    ]


def fits_schema(name, document):
    text = resources.files("labelstore.schemas").joinpath(f"{name}.schema.json").read_text()
    jsonschema.Draft202012Validator(json.loads(text)).validate(document)
    return document


def test_thresholds_by_class_wherever_thresholds_are_taken(classed, tmp_path):
    a, b = classed
    rule = FerKD.fit(a, by="class")
    assert rule.by_class.classes == (0, 1)
    truths = a.targets[:, None]
    by_class = ("--thresholds", "fit-by-class")

    done = run("inspect", a.path, *by_class, "--json", "--report", tmp_path / "page.html")
    told = fits_schema("inspect", json.loads(done.stdout))
    assert told["ferkd"]["by_class"] == rule.by_class.to_json()
    counts = vars(rule.count(a.confidence(), truths))
    assert {name: told["ferkd"][name]["count"] for name in counts} == counts
    assert "2 of 9 classes have their own (low " in done.stderr
    shown = " ".join(run("inspect", a.path, *by_class, "--plot", tmp_path / "p.png").stdout.split())
    assert f"of their own for 2 of 9 classes, else low {rule.low:g}" in shown

    told = json.loads(run("schedule", a.path, b.path, *by_class, "--json").stdout)
    both = labelstore.ensemble([a, b])
    assert told == json.loads(json.dumps(dry_run(both, FerKD.fit(both, by="class"))))
    assert told["settings"]["rules"][0]["by_class"] == rule.by_class.to_json()
    assert "of their own for 2 of 9" in " ".join(run("schedule", a.path, *by_class).stdout.split())

    done = run("compare", a.path, b.path, *by_class, "--json")
    told = fits_schema("compare", json.loads(done.stdout))["ferkd"]
    kept = sum(part["count"] for part in told["decisions"] if part["a"] == "kept")
    assert kept == counts["kept"]
    run("compare", a.path, b.path, *by_class)

    for image in (0, 6, 7):
        told = fits_schema(
            "show", json.loads(run("show", a.path, image, *by_class, "--json").stdout)
        )
        own = rule.of_class(a.targets[image])
        assert [told["ferkd"][name] for name in ("low", "middle", "top")] == [
            own.low,
            own.middle,
            own.top,
        ]
        actions = [view["action"].split("_")[0] for view in told["views"]]
        decided = own.decide(a.confidence()[image][[view["view"] for view in told["views"]]])
        assert actions == [Action(action).name.lower() for action in decided]

    merged = tmp_path / "m.zarr"
    words = ("merge", a.path, b.path, "--calibrate", *by_class, "-o", merged)
    run(*words)
    settings = labelstore.open(merged).manifest.origin["settings"]
    assert settings["ferkd"]["rules"][0]["by_class"] == rule.by_class.to_json()
    run(*words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--low", 0.1), "--low and --thresholds fit were given"),
        (("--middle", 0.3, "--top", 0.95), "--middle and --top and --thresholds fit"),
        (("--confidence", "target"), "--confidence is target"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "schedule", "show", "compare", "merge"])
def test_what_contradicts_it_is_refused_before_a_store_is_read(tmp_path, command, words, expected):
    more = {"show": (0,), "compare": ("b.zarr",), "merge": ("b.zarr", "-o", tmp_path / "c.zarr")}
    where = (tmp_path / "a.zarr", *more.get(command, ()))
    done = run(command, *where, "--thresholds", "fit", *words, code=2)
    assert expected in " ".join(done.stderr.split())


def test_a_mean_is_not_fitted_to(stores):
    paths = [store.path for store in stores]
    done = run("compare", *paths, "--mean-a", paths[1], "--thresholds", "fit", code=2)
    assert "those of a mean are not stored" in " ".join(done.stderr.split())
    told = said(run("compare", *paths, "--mean-b", paths[0], "--thresholds", "fit"))
    assert list(told) == [str(paths[0])]


def test_of_an_incomplete_store_what_is_committed(tmp_path):
    part, _ = make_planned(tmp_path / "part.zarr", blocks=[0, 2], views=40)
    with pytest.warns(PartialDataWarning, match=r"part\.zarr is not complete"):
        done = run("inspect", part.path, "--thresholds", "fit", "--json")
    told = json.loads(done.stdout)
    assert told["fitted"]["low"] == told["ferkd"]["low"]
    empty, _ = make_planned(tmp_path / "empty.zarr", blocks=[])
    assert report(empty)["fitted"] is None
    done = run("inspect", empty.path, "--thresholds", "fit", "--json", code=1)
    assert json.loads(done.stdout)["error"]["kind"] == "not-found"
