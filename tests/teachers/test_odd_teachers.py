"""Teachers that are none, that make noise, that have no answer to a photo, or need less at once."""

from __future__ import annotations

import re
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import labelstore
from labelstore.errors import TeacherError
from labelstore.format.settings import StoreSettings
from labelstore.images.preprocessing import Preprocessing
from labelstore.images.sources.folder import FolderSource
from labelstore.producer.generation import generate
from labelstore.producer.settings import LabelSettings, RunOptions
from labelstore.teachers.outputs import difference, fault_of
from labelstore.teachers.teacher import Teacher
from tests.support import commands

INPUT = Preprocessing((32, 32), (0.5,) * 3, (0.25,) * 3, "bilinear")


def network(classes=10, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(128, classes),
        )
        model[1].running_mean.normal_()
    return model


class Then(nn.Module):
    """A network whose outputs, or inputs, something is done to."""

    def __init__(self, after=lambda z, x: z, before=lambda x: x, classes=10):
        super().__init__()
        self.inner, self.before, self.after = network(classes), before, after

    def forward(self, images):
        return self.after(self.inner(self.before(images)), images)


def teacher(model, **options):
    return Teacher(model, INPUT, spec="odd", device="cpu", **options)


@pytest.fixture
def photos(tmp_path):
    """Six photos of noise and one, c.png, that is all white."""
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in "abdefg":
        pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    Image.new("RGB", (48, 40), (255, 255, 255)).save(folder / "c.png")
    return FolderSource(folder)


def label(source, model, path, recipe=None, on_error="stop", batch_size=5, **options):
    recipe = recipe or LabelSettings(
        3, StoreSettings(k=4, quantizer="fp32", prior_size=8, block_images=4)
    )
    targets = np.full(len(source), -1, dtype=np.int32)
    made = teacher(model, **options)
    options = RunOptions(on_error=on_error, batch_size=batch_size)
    return generate(source, targets, made, path, recipe, options=options)


def labels_of(path):
    store = labelstore.open(path)
    rows = np.flatnonzero(store.labelled())
    return store.read(rows[:, None], np.arange(store.num_views)).recover().dense()


def white(images):
    return (images.amin((1, 2, 3)) > 1.9)[:, None]


class TestOutputsThatAreNoLogits:
    @pytest.mark.parametrize(
        ("classes", "after", "message"),
        [
            (10, lambda z, _: z.softmax(-1), "probabilities .* what goes into softmax"),
            (2, lambda z, _: z.softmax(-1), "probabilities"),
            (10, lambda z, _: z.softmax(-1).bfloat16(), "probabilities"),
            (40, lambda z, _: z.sigmoid(), "as sigmoid makes them"),
            (64, lambda z, _: z.relu(), "features after a ReLU"),
            (64, lambda z, _: nn.functional.normalize(z), "length 1, as embeddings"),
            (1, lambda z, _: z, r"one output for a crop, .* torch\.cat"),
        ],
    )
    def test_they_are_refused_with_the_mend(self, classes, after, message):
        with pytest.raises(TeacherError, match=f"odd returned .*{message}"):
            teacher(Then(after, classes=classes))

    @pytest.mark.parametrize(
        ("classes", "after"),
        [
            (10, lambda z, _: z.log_softmax(-1)),
            (2, lambda z, _: z),
            (2, lambda z, _: z - z.min()),
            (40, lambda z, _: 30 * nn.functional.normalize(z)),
            (40, lambda z, _: z.half()),
            (40, lambda z, _: torch.zeros_like(z)),
        ],
    )
    def test_logits_of_all_kinds_are_taken(self, classes, after):
        assert teacher(Then(after, classes=classes)).num_classes == classes

    def test_the_logarithm_of_probabilities_gives_the_labels_of_the_logits(self, photos, tmp_path):
        label(photos, network(), tmp_path / "logits.zarr")
        label(photos, Then(lambda z, _: z.softmax(-1).log()), tmp_path / "logs.zarr")
        np.testing.assert_allclose(
            labels_of(tmp_path / "logs.zarr"), labels_of(tmp_path / "logits.zarr"), atol=1e-5
        )

    def test_probabilities_of_real_crops_alone(self, photos, tmp_path):
        """What passes on noise is looked at again on the first crops of the run."""
        model = Then(lambda z, x: z if len(z) in (1, 4) else z.softmax(-1))
        with pytest.raises(TeacherError, match="odd returned probabilities"):
            label(photos, model, tmp_path / "s.zarr")

    def test_the_rows_of_real_logits_have_no_fault(self):
        generator = torch.Generator().manual_seed(0)
        for classes in (2, 3, 10, 16, 100):
            for _ in range(200):
                assert fault_of(torch.randn(4, classes, generator=generator)) is None


class Training(nn.Module):
    """Batch normalization by the batch's own statistics, whatever mode the module is in."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, images):
        self.inner.train()
        return self.inner(images)


class Drops(nn.Module):
    """Stochastic depth that is always on."""

    def __init__(self, rate):
        super().__init__()
        self.rate, self.inner, self.depth = rate, network(), nn.Linear(10, 10)

    def forward(self, images):
        z = self.inner(images)
        # One draw a class: that two forwards draw alike does not happen.
        kept = torch.rand(z.shape) > self.rate
        return z + kept * self.depth(z)


class TestNoise:
    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (Then(before=nn.functional.dropout), "another forward"),
            (Then(before=lambda x: nn.functional.dropout(x, 0.01)), "another forward"),
            (Then(lambda z, _: nn.functional.dropout(z, 0.1)), "another forward"),
            (Drops(0.5), "another forward"),
            (Training(), "another batch"),
            (Then(lambda z, _: z - z.mean(0)), "another batch"),
        ],
    )
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_it_is_refused(self, model, message, precision):
        with pytest.raises(TeacherError, match=f"odd is not deterministic: in {message} .*dropout"):
            teacher(model, precision=precision)

    def test_it_may_be_asked_for_and_the_manifest_says_so(self, photos, tmp_path):
        model = Then(before=nn.functional.dropout)
        report = label(photos, model, tmp_path / "s.zarr", allow_nondeterministic=True)
        assert report.notes == ("odd is not deterministic: its labels are not the same twice",)
        assert labelstore.open(tmp_path / "s.zarr").manifest.teacher["deterministic"] is False
        quiet = teacher(network(), allow_nondeterministic=True)
        assert quiet.deterministic
        assert "deterministic" not in quiet.describe()

    def test_what_depends_on_the_size_of_the_batch_is_seen_on_the_first_batch(
        self, photos, tmp_path
    ):
        with pytest.raises(TeacherError, match="in another batch logits of the same crops"):
            label(photos, Then(lambda z, x: z * len(x)), tmp_path / "s.zarr")

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_networks_that_only_round_are_taken(self, photos, tmp_path, precision):
        for number, seed in enumerate((1, 2)):
            made = label(
                photos, network(50, seed), tmp_path / f"{number}.zarr", precision=precision
            )
            assert made.notes == ()

    def test_difference_ignores_what_softmax_does_not_see(self):
        logits = torch.randn(4, 10)
        assert difference(logits, logits + torch.randn(4, 1)) < 1e-5
        assert difference(logits, logits.roll(1, 1)) > 0.1
        lost = logits.clone()
        lost[0, 3] = float("inf")
        assert difference(logits, lost) == 0


class TestLogitsThatAreNotFinite:
    @pytest.mark.parametrize("value", [float("inf"), float("nan"), -float("inf")])
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_image_and_views_are_named_or_left_out(self, photos, tmp_path, value, precision):
        model = Then(lambda z, x: torch.where(white(x), value, z))
        path = tmp_path / "s.zarr"
        with pytest.raises(
            TeacherError,
            match=r"'c\.png' has views \(0, 1, 2\) .*odd.* not finite.*on_error='skip'",
        ):
            label(photos, model, path, batch_size=50, precision=precision)
        report = label(photos, model, path, on_error="skip", precision=precision)
        assert list(report.unreadable) == ["c.png"]
        store = labelstore.open(path)
        assert store.complete
        assert store.unreadable() == ["c.png"]
        label(photos, network(), tmp_path / "whole.zarr", precision=precision)
        expected = labels_of(tmp_path / "whole.zarr")[[key != "c.png" for key in store.keys]]
        np.testing.assert_array_equal(labels_of(path), expected)

    def test_low_precision_that_is_not_finite_is_made_again_in_fp32(self, photos, tmp_path):
        def after(z, x):
            # In bf16 1.001 is 1, whose logarithm is 0, whose logarithm is not finite.
            fine = (z[:, :1] * 0 + 1.001).log().log()
            return torch.where(white(x), z.float() + fine, z.float())

        path = tmp_path / "s.zarr"
        report = label(photos, Then(after), path, precision="bf16")
        assert report.unreadable == {}
        (note,) = report.notes
        assert "not finite at precision bf16 and were made again in fp32" in note
        label(photos, Then(after), tmp_path / "exact.zarr", precision="fp32")
        label(photos, network(), tmp_path / "rough.zarr", precision="bf16")
        at = labelstore.open(path).keys.index("c.png")
        made, exact, rough = (
            labels_of(tmp_path / name) for name in ("s.zarr", "exact.zarr", "rough.zarr")
        )
        np.testing.assert_allclose(made[at], exact[at], atol=1e-6)
        others = np.arange(7) != at
        np.testing.assert_array_equal(made[others], rough[others])

    def test_a_network_without_any_finite_answer(self):
        with pytest.raises(TeacherError, match="not finite at precision fp32: check its weights"):
            teacher(Then(lambda z, _: z / 0), precision="bf16")


class Narrow(nn.Module):
    """A network on a device that has room for a few crops."""

    def __init__(self, most, error=torch.cuda.OutOfMemoryError):
        super().__init__()
        self.inner, self.most, self.error, self.sizes = network(), most, error, []

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise self.error("CUDA out of memory. Tried to allocate 20.00 MiB")
        return self.inner(images)


class TestMemory:
    @pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, RuntimeError, MemoryError])
    def test_fewer_crops_go_through_at_once(self, photos, tmp_path, error):
        model = Narrow(5, error)
        report = label(photos, model, tmp_path / "s.zarr", batch_size=12)
        # Three to try it out, the probe of two views of four photos, a batch of 12 with the look
        # at its first 4, and one of 9.
        assert model.sizes == [1, 4, 4, 4, *[1] * 8, 12, 6, 3, 3, 3, 3, 3, 1, 3, 3, 3]
        assert report.notes == (
            "odd ran out of memory on 6 crops at once: 3 go through it at once since then; "
            "a batch size of 3 does so from the beginning",
        )
        label(photos, network(), tmp_path / "wide.zarr", batch_size=12)
        np.testing.assert_allclose(
            labels_of(tmp_path / "s.zarr"), labels_of(tmp_path / "wide.zarr"), atol=1e-6
        )

    def test_not_even_one_crop(self):
        made = teacher(Narrow(64))
        made._model.most = 0
        with pytest.raises(TeacherError, match="runs out of memory on one crop: free memory"):
            made.logits(np.zeros((8, 32, 32, 3), dtype=np.uint8))

    def test_another_error_is_not_taken_for_it(self):
        made = teacher(Narrow(64))
        made._model.most, made._model.error = 0, ZeroDivisionError
        with pytest.raises(ZeroDivisionError):
            made.logits(np.zeros((8, 32, 32, 3), dtype=np.uint8))

    def test_padded_batches_of_a_compiled_network_follow(self):
        made = teacher(Narrow(64))
        pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
        expected = made.logits(pixels)
        # As after Teacher.compile, whose batches have one size; nothing is compiled here.
        network, made._batch_size = made._model, 16
        network.most, network.sizes = 9, []
        torch.testing.assert_close(made.logits(pixels), expected)
        assert network.sizes == [16, 8, 8]


class TestModulesOfOtherKinds:
    def exported(self, model, dynamic=True):
        batch = torch.export.Dim("batch", min=1, max=4096)
        shapes = ({0: batch},) if dynamic else None
        return torch.export.export(
            model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=shapes
        ).module()

    def scripted(self, model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.script(model.eval())

    def frozen(self, model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.freeze(torch.jit.script(model.eval()))

    @pytest.mark.parametrize("kind", ["exported", "scripted", "frozen"])
    def test_they_say_what_the_network_says(self, kind):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
        expected = teacher(network()).logits(pixels)
        made = teacher(getattr(self, kind)(network().eval()))
        torch.testing.assert_close(made.logits(pixels), expected, rtol=1e-4, atol=1e-4)

    def test_frozen_modules_with_other_weights_have_other_digests(self):
        digests = {
            teacher(self.frozen(network(seed=seed))).describe()["weights_digest"]
            for seed in (0, 0, 1)
        }
        assert len(digests) == 2

    def test_one_that_takes_batches_of_one_size_alone(self):
        model = self.exported(network().eval(), dynamic=False)
        with pytest.raises(TeacherError, match=r"odd (fails on|takes) one image .*Guard failed"):
            teacher(model)

    def test_one_that_was_exported_in_training_mode(self):
        model = nn.Sequential(nn.Dropout(0.5), network())
        with pytest.raises(TeacherError, match="odd is not deterministic"):
            teacher(self.exported(model.train()))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_weights_of_another_precision(self, dtype):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
        made = teacher(network().to(dtype))
        expected = teacher(network().to(dtype).float()).logits(pixels)
        assert torch.equal(made.logits(pixels), expected)


def test_the_command_line_says_it_in_a_sentence(tmp_path, photos):
    (tmp_path / "own_soft.py").write_text(
        textwrap.dedent(
            """
            import torch
            from torch import nn

            FIELDS = dict(input_size=(32, 32), mean=[.5] * 3, std=[.25] * 3, interpolation="box")

            def soft():
                flat = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3), nn.Softmax(-1))
                return flat, FIELDS

            def three():
                torch.manual_seed(0)
                return nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)), FIELDS
            """
        )
    )

    def run(factory, path, *arguments):
        command = [sys.executable, "-m", "labelstore", "generate", str(photos.path)]
        command += ["--teacher", f"python:own_soft:{factory}", "--views", "2", "-o", str(path)]
        command += ["--targets", "none", *arguments]
        return commands.run(command, cwd=tmp_path)

    done = run("soft", tmp_path / "soft.zarr")
    assert done.returncode == 1
    assert "Error: python:own_soft:soft returned probabilities" in done.stderr
    assert not (tmp_path / "soft.zarr").exists()
    # Fewer classes than a fidelity stores.
    done = run("three", tmp_path / "three.zarr")
    assert done.returncode == 0, done.stderr
    assert "top 3 of 3 classes (all there are)" in done.stderr + done.stdout
    assert labelstore.open(tmp_path / "three.zarr").k == 3
    done = run("three", tmp_path / "three.zarr")
    assert (done.returncode, "finished already" in done.stderr + done.stdout) == (0, True)
    done = run("three", tmp_path / "five.zarr", "--top-k", "5")
    assert done.returncode == 2
    assert "k is 5, expected 1 to 3" in done.stderr


def test_what_is_wrong_already_is_said_before_the_network_is_built(tmp_path, photos, monkeypatch):
    """The factory leaves a trace: it may take minutes, and runs only where the rest is right."""
    from click.testing import CliRunner

    from cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    trace = tmp_path / "it-ran"
    (tmp_path / "own_slow.py").write_text(
        f"def slow():\n    open({str(trace)!r}, 'w').close()\n    raise MemoryError\n"
    )
    label(photos, network(), tmp_path / "there.zarr")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")

    def run(*arguments, source=photos.path, path="new.zarr"):
        command = ["generate", str(source), "--teacher", "python:own_slow:slow", "--views", "3"]
        command += ["-o", str(tmp_path / path), "--targets", "none", *arguments]
        return CliRunner().invoke(main, command)

    cases = (
        (run(path="there.zarr"), 1, "made with other settings (.*teacher.spec: stored"),
        (run("--seed", "3", path="there.zarr"), 1, "views.law.seed: stored 0, asked for 3"),
        (run(path="folder"), 1, "exists and is not a labelstore store"),
        (run(source=tmp_path / "gone"), 1, "gone"),
        (run("--class-map", str(tmp_path / "gone.json")), 1, "gone.json"),
        (run("--top-p", "1.5"), 2, "top-p is 1.5"),
        (run("--temperature", "0"), 2, "temperature is 0.0"),
        (run("--views", "70000"), 2, "70000 views an image"),
        (run("--scale", "2", "1"), 2, "scale"),
    )
    for done, code, message in cases:
        assert done.exit_code == code, done.output
        assert re.search(message.replace("(", r"\("), done.output), done.output
        assert not trace.exists(), done.output
