"""Options are the library's: its words, its defaults, and one object for each command."""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import get_args

import click
import pytest
from click.testing import CliRunner

from labelstore.cli import choices, ferkd_options, options
from labelstore.cli.main import COMMANDS, main
from labelstore.format import codecs
from labelstore.format.settings import LabelLayout
from labelstore.labels import actions, ferkd, top_k
from labelstore.operations import verify
from labelstore.operations.lifecycle import subset
from labelstore.peers.choose import READERS
from labelstore.peers.exports import fkd, hugging_face, webdataset
from labelstore.peers.exports.fkd import Fkd
from labelstore.peers.exports.hugging_face import HuggingFace
from labelstore.peers.exports.npz import Npz
from labelstore.peers.exports.webdataset import WebDataset
from labelstore.producer import settings
from labelstore.store import ensembles
from labelstore.training import cycle
from labelstore.views.law import ViewLaw


@pytest.mark.parametrize(
    ("shown", "known"),
    [
        (choices.CONFIDENCES, get_args(ferkd.Confidence)),
        (choices.COMBINES, get_args(actions.Combine)),
        (choices.CALIBRATES, get_args(ferkd.Calibrate)),
        (choices.TAILS, get_args(top_k.Tail)),
        (choices.LABEL_TYPES, get_args(top_k.LabelType)),
        (choices.LAYOUTS, get_args(LabelLayout)),
        (choices.RESIZES, get_args(settings.Resize)),
        (choices.ON_ERROR, get_args(settings.OnError)),
        (choices.IMAGES, get_args(ensembles.Images)),
        (choices.VIEW_CHOICES, get_args(subset.Choice)),
        (choices.FKD_LABELS, get_args(fkd.FkdLabels)),
        (choices.FKD_ARRAYS, get_args(fkd.FkdArrays)),
        (choices.EXPORTS, tuple(kind.name for kind in (Fkd, WebDataset, Npz, HuggingFace))),
        (choices.SCHEDULES, get_args(cycle.Schedule)),
        (choices.QUANTIZERS, tuple(codecs.QUANTIZERS)),
        (choices.FIDELITIES, tuple(settings.FIDELITIES)),
        (choices.PEERS, tuple(READERS)),
    ],
)
def test_words_are_the_librarys(shown, known):
    assert shown == known


def test_numbers_are_the_librarys():
    assert ViewLaw() == ViewLaw(choices.SEED, choices.SCALE, choices.RATIO, choices.FLIP)
    rule = ferkd.FerKD()
    assert (rule.low, rule.middle, rule.top) == (choices.LOW, choices.MIDDLE, choices.TOP)
    assert (rule.smoothing, rule.alpha) == (choices.SMOOTHING, choices.ALPHA)
    assert settings.RunOptions().grace == choices.GRACE
    assert webdataset.SHARD_BYTES == hugging_face.SHARD_BYTES == choices.SHARD_MB * 10**6
    assert Fkd().folder == choices.FKD_FOLDER
    assert verify.TOLERANCE == choices.TOLERANCE


@pytest.mark.parametrize(
    ("add", "group", "make", "default"),
    [
        (ferkd_options.ferkd_options, ferkd_options.FerKDOptions, "rule", ferkd.FerKD()),
        (options.law_options, options.LawOptions, "law", ViewLaw()),
    ],
)
def test_what_is_not_said_is_the_librarys_default(add, group, make, default):
    @click.command()
    @add
    @options.collected(dict, group=group)
    def command(request):
        assert getattr(request["group"], make)() == default
        click.echo("the same")

    assert CliRunner().invoke(command, [], catch_exceptions=False).output == "the same\n"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "demo"])
def test_an_object_has_a_field_for_each_option(name):
    """A field without an option, or the other way round, would be a TypeError in a user's face."""
    command = importlib.import_module(COMMANDS[name][0], package="labelstore.cli").command
    kind, groups = command.callback.options_kind, command.callback.options_groups
    names = [field.name for field in fields(kind) if field.name not in groups]
    names += [field.name for group in groups.values() for field in fields(group)]
    assert sorted(names) == sorted(parameter.name for parameter in command.params)
    assert set(groups) <= {field.name for field in fields(kind)}


def test_of_two_teachers_each_has_its_own_or_the_common_value(tmp_path):
    from labelstore.cli.teacher_options import TeachersOptions

    both = TeachersOptions(("a", "b"), (), (2.0,), (64, 96), (), "fp32", "cpu", False)
    assert [(t.spec, t.checkpoint, t.temperature, t.size) for t in both.each()] == [
        ("a", None, 2.0, 64),
        ("b", None, 2.0, 96),
    ]
    arguments = ["--teacher", "timm:a", "--teacher", "timm:b", "--views", "1"]
    run = CliRunner().invoke(main, ["generate", str(tmp_path), *arguments, "-o", "x.zarr"])
    assert run.exit_code == 2
    assert "--output was given 1 times for 2 --teacher" in run.stderr


@pytest.mark.parametrize(
    "arguments", ["evaluate photos", "repair a.zarr photos", "generate photos"]
)
def test_a_teacher_that_is_not_said_is_missing(arguments):
    done = CliRunner().invoke(main, arguments.split())
    assert done.exit_code == 2
    assert "Missing option '--teacher'" in done.output
