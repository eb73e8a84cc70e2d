"""Recipes: what the paper states is what they set, what it does not state they say."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import labelstore
from labelstore.errors import FallbackWarning, UsageError
from labelstore.labels.ferkd import FerKD
from labelstore.torch import (
    SelfMix,
    TorchSoftLabels,
    soft_cross_entropy,
    soft_kl_divergence,
    vanilla_kd_loss,
)
from labelstore.torch.recipes import LABEL_TYPES, RECIPES, recover_as
from labelstore.training import mixing
from tests.support.stores import written


def target():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(12, 0.3), size=5)
    order = np.argsort(-p, 1)[:, :3]
    label = labelstore.TopK(order, np.take_along_axis(p, order, 1), 12).recover()
    return TorchSoftLabels.from_numpy(label, target=np.arange(5), action=np.zeros(5))


def logits():
    return torch.tensor(np.random.default_rng(1).normal(size=(5, 12)))


def test_ferkd_is_as_the_paper_states_it():
    ferkd = labelstore.recipe("ferkd")
    assert (ferkd.ferkd.low, ferkd.ferkd.middle, ferkd.ferkd.top) == (0.15, 0.3, 0.95)
    assert ferkd.loss == "ferkd"
    assert ferkd.mixing.within_image
    assert all(isinstance(rule, mixing.SelfMix) for rule in ferkd.mixing.rules)
    assert (ferkd.epochs, ferkd.temperature, ferkd.start) == (300, 1.0, "scratch")


def test_with_a_store_the_thresholds_are_those_that_fit_it(tmp_path):
    store = written(tmp_path / "a.zarr")[0]
    other = written(tmp_path / "b.zarr", seed=1)[0]
    fitted = labelstore.recipe("ferkd", store)
    assert fitted.ferkd == FerKD.fit(store) != FerKD()
    assert fitted.sampler_arguments()["ferkd"] == fitted.ferkd
    assert "FerKD.fit" in fitted.describe()
    both = labelstore.ensemble([store, other])
    assert labelstore.recipe("ferkd", both).ferkd == FerKD.fit(both)
    # What is said counts, and a recipe that calibrates nothing stays as it is.
    assert labelstore.recipe("ferkd", store, ferkd=FerKD(low=0.1)).ferkd == FerKD(low=0.1)
    assert labelstore.recipe("fkd", store) == labelstore.recipe("fkd")


def test_the_others_are_as_the_paper_states_them():
    fkd, funmatch, meal, kd = (labelstore.recipe(n) for n in ("fkd", "funmatch", "meal-v2", "kd"))
    assert {r.ferkd for r in (fkd, funmatch, meal, kd)} == {None}
    assert (fkd.loss, fkd.mixing, fkd.epochs) == ("fkd", None, 300)
    assert (type(funmatch.mixing), funmatch.epochs) == (mixing.MixUp, 300)
    assert (meal.epochs, meal.start) == (180, "fine-tuning")
    assert (kd.loss, kd.hard_weight, kd.epochs) == ("vanilla-kd", None, None)
    hald = labelstore.recipe("hald")
    assert {r.temperature for r in RECIPES.values() if r != hald} == {1.0}
    assert (hald.temperature, hald.epochs, hald.phases.hard_epochs) == (20, 300, range(75, 225))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_shows_all_that_it_sets_and_where_it_is_from(name):
    chosen = labelstore.recipe(name)
    lines = chosen.describe().splitlines()
    assert lines[0].startswith(f"{name}: ")
    shown = {line.split(" = ")[0].strip() for line in lines[1:]}
    for item in dataclasses.fields(chosen):
        value = getattr(chosen, item.name)
        if item.name in ("name", "summary", "sources") or value is None:
            continue
        assert item.name in shown
        assert f"{item.name}={value!r}" in repr(chosen)
    for line in lines[1:]:
        source = line[line.rindex("  (") :]
        assert any(word in source for word in ("paper", "not stated", "section")), line
    assert set(chosen.sources) <= {item.name for item in dataclasses.fields(chosen)}
    assert name == chosen.name


def test_looking_at_a_recipe_needs_no_torch():
    code = "import sys, labelstore; labelstore.recipe('ferkd').describe(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "zarr", "timm"} & set(done.stdout.split())


def test_values_can_be_changed_and_are_shown_as_changed():
    changed = labelstore.recipe("ferkd", ferkd=FerKD(low=0.1), epochs=50)
    assert (changed.ferkd.low, changed.epochs) == (0.1, 50)
    assert changed.mixing == labelstore.recipe("ferkd").mixing
    assert "epochs = 50  (changed)" in changed.describe()
    assert labelstore.recipe("ferkd").epochs == 300
    assert labelstore.recipe("ferkd") == labelstore.recipe("ferkd") != changed
    assert len({labelstore.recipe("ferkd"), labelstore.recipe("ferkd"), changed}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        changed.epochs = 3
    for made in (copy.deepcopy(changed), pickle.loads(pickle.dumps(changed))):
        assert made.describe() == changed.describe()


def test_arguments_for_data_set_and_sampler():
    ferkd = labelstore.recipe("ferkd", label_type="image-tail")
    assert ferkd.dataset_arguments() == {"label_type": "top-k", "tail": "image", "ferkd": FerKD()}
    assert ferkd.sampler_arguments() == {"views_per_image": 4, "ferkd": FerKD()}
    hard = labelstore.recipe("kd", label_type="hard")
    assert hard.dataset_arguments() == {"label_type": "hard", "ferkd": None}
    assert hard.sampler_arguments() == {"ferkd": None}
    warm = {name: labelstore.recipe("kd", label_type=name, temperature=4.0) for name in LABEL_TYPES}
    temperatures = {k: r.dataset_arguments().get("temperature") for k, r in warm.items()}
    # The teacher's largest class is the same at any temperature.
    assert temperatures == dict.fromkeys(LABEL_TYPES, 4.0) | {"hard": None}


def test_losses_are_those_of_the_equations():
    z, label = logits(), target()
    sce, kl = soft_cross_entropy(z, label), soft_kl_divergence(z, label)
    for name, expected in (("ferkd", sce), ("fkd", sce), ("funmatch", kl), ("meal-v2", kl)):
        torch.testing.assert_close(labelstore.recipe(name).build_loss()(z, label), expected)
    kd = labelstore.recipe("kd", hard_weight=0.3, temperature=4.0, temperature_squared=True)
    expected = vanilla_kd_loss(z, label, 0.3, temperature=4.0, temperature_squared=True)
    torch.testing.assert_close(kd.build_loss()(z, label), expected)
    warm = labelstore.recipe("fkd", temperature=2.0).build_loss()(z, label)
    torch.testing.assert_close(warm, soft_cross_entropy(z, label, temperature=2.0))


def test_kd_asks_for_the_weight_that_the_paper_does_not_state():
    with pytest.raises(UsageError, match=r"does not state alpha.*recipe\('kd', hard_weight=0.5\)"):
        labelstore.recipe("kd").build_loss()


def test_mixing_is_built_for_tensors():
    assert labelstore.recipe("fkd").build_mixing() is None
    rule = labelstore.recipe("ferkd", mixing=mixing.SelfMix("cutmix", 0.5)).build_mixing()
    assert rule == SelfMix("cutmix", 0.5)
    images = torch.arange(5.0)[:, None, None, None].expand(5, 3, 4, 4)
    mixed = labelstore.recipe("ferkd").build_mixing()(
        images, target(), torch.tensor([0, 0, 1, 1, 2]), step=0
    )
    assert mixed.alone == 1


def test_a_recipe_mixes_by_a_seed_and_a_rank():
    chosen = labelstore.recipe("ferkd")
    assert chosen.build_mixing() == chosen.build_mixing(seed=0)
    groups, size = [0, 0, 0, 0, 1, 1, 1, 1], (8, 8)
    plans = [chosen.build_mixing(seed=seed).plans(groups, size, 0)[0] for seed in range(4)]
    assert len({tuple(plan.weight) + tuple(plan.partner) for plan in plans}) == 4
    assert chosen.build_mixing(seed=5, rank=3).rank == 3
    images = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    label = labelstore.torch.TorchSoftLabels(
        torch.zeros(8), torch.zeros(8, 1, dtype=torch.int64), torch.ones(8, 1), 6
    )
    mixed = [
        chosen.build_mixing(seed=5, rank=rank)(images, label, torch.tensor(groups), step=0).images
        for rank in (0, 1, None)
    ]
    assert not torch.equal(mixed[0], mixed[1])
    assert torch.equal(mixed[0], mixed[2])
    assert labelstore.recipe("fkd").build_mixing(seed=5, rank=3) is None


def test_label_types_say_what_they_are():
    topk = labelstore.TopK([[3, 1]], [[0.5, 0.3]], 6)
    with pytest.warns(FallbackWarning, match="uniform"):
        recovered = recover_as(topk, "image-tail")
    np.testing.assert_allclose(recovered.dense()[0, [3, 1, 0]], [0.5, 0.3, 0.05], rtol=1e-6)
    assert all(chosen.meaning for chosen in LABEL_TYPES.values())


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match=r"'ferk', expected one of ferkd, fkd"):
        labelstore.recipe("ferk")
    with pytest.raises(UsageError, match="no learning_rate, expected some of epochs"):
        labelstore.recipe("ferkd", learning_rate=1.0)
    for changes, message in (
        ({"loss": "mse"}, "'mse', expected one of vanilla-kd"),
        ({"start": "middle"}, "scratch, fine-tuning"),
        ({"label_type": "soft"}, "expected one of hard"),
        ({"label_type": "hard"}, "label_type is 'hard'.*or leave ferkd out"),
        ({"ferkd": None}, "ferkd is None.*FerKD"),
        ({"hard_weight": 2.0}, "expected 0 to 1"),
        ({"temperature": 0.0}, "expected a positive number"),
        ({"views_per_image": 0}, "expected at least 1"),
    ):
        with pytest.raises(UsageError, match=message):
            labelstore.recipe("ferkd", **changes)
