"""Mixed views: MixUp and CutMix with partners, from the teacher's pixels to the student's."""

from __future__ import annotations

import dataclasses
import functools
import json
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import labelstore
from labelstore.errors import DecodeError, MismatchError, SourceError, UsageError
from labelstore.format.settings import StoreSettings
from labelstore.format.versions import VERSION_2
from labelstore.images import PartnerPhotos, render
from labelstore.images.decoding import decode
from labelstore.images.sources.folder import FolderSource
from labelstore.labels.calibration.phases import LabelPhases
from labelstore.operations import demo
from labelstore.operations.lifecycle.export import export
from labelstore.operations.lifecycle.grow import grow
from labelstore.operations.lifecycle.subset import subset
from labelstore.operations.merge import merge
from labelstore.operations.plan import sample_of_teacher
from labelstore.operations.repair import repair
from labelstore.operations.verify import replay
from labelstore.peers.exports.npz import Npz
from labelstore.producer.generation import generate, undecodable
from labelstore.producer.pixel_probe import make_probe, read_by_key, replay_probe
from labelstore.producer.settings import LabelSettings, RunOptions
from labelstore.store.reissue import reissued
from labelstore.store.writer import Share
from labelstore.teachers.load import load_teacher
from labelstore.torch import (
    HuggingFaceViews,
    SoftLabelDataset,
    StreamingViews,
    ViewSampler,
    WebDatasetViews,
    collate_views,
)
from labelstore.torch.dataset import Show
from labelstore.training.batches import Batches
from labelstore.views.law import ViewLaw
from tests.support import augmented, commands
from tests.support.augmented import (
    STORED,
    StopAfter,
    StopError,
    require_labels,
    small_photos,
    unlooked_partner,
)
from tests.support.stores import few_photos, files_of

VIEWS = 6
PHOTOS = 5
labelled = functools.partial(augmented.labelled, views=VIEWS)
COMPOSITIONS = [
    ("mixup-0.8",),
    ("cutmix-1",),
    ("mix-0.8-1-p0.7",),
    ("mixup-2-r1",),
    ("ra-n2-m9", "erase-0.5", "mix-0.8-1"),
    ("jitter-0.4-0.4-0.2-0.1", "gray-0.2", "blur-0.5", "cutmix-1-p0.5-r3"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five photos, flat."""
    return few_photos(tmp_path_factory.mktemp("photos"), PHOTOS)


@pytest.fixture(scope="module")
def teacher():
    """A small network."""
    return load_teacher("timm:test_resnet", checkpoint="none", device="cpu", size=64)


@pytest.fixture(scope="module")
def store(photos, teacher, tmp_path_factory):
    """Mixed after other stages."""
    path = tmp_path_factory.mktemp("mixed") / "s.zarr"
    return labelled(photos, teacher, path, ("ta-wide", "mix-0.8-1-p0.8"))


def mixed_by_hand(store, photos, image, view, size, interpolation):
    """One view with all that SPEC.md says of its mixing, pixel by pixel in exact integers."""
    law, keys = store.law, store.keys

    def plain(number, view):
        photo = decode((photos / keys[number]).read_bytes(), keys[number])
        shown = law.unmixed(store.key_hashes[number], [view], *photo.size)
        return render(photo, shown, size, interpolation)[0]

    shown = store.views(image, view)
    own, mixed = plain(image, view), shown.stages[-1]
    name, (share, top, left) = mixed.names[mixed.operation[0]], mixed.values[0]
    if shown.partners.image < 0:
        assert name == "identity"
        return own
    assert shown.partners.image != image
    other = plain(int(shown.partners.image), int(shown.partners.view))
    if name == "mixup":
        steps = int(share * 65536)
        assert steps == share * 65536
        mixed = own.astype(object) * steps + other.astype(object) * (65536 - steps)
        return ((mixed + 32768) // 65536).astype(np.uint8)
    height, width = size
    out = own.copy()
    for y in range(height):
        for x in range(width):
            half = 0.5 * np.sqrt(1 - share)
            inside = abs(y - int(top * height) + 0.5) <= int(half * height)
            if inside and abs(x - int(left * width) + 0.5) <= int(half * width):
                out[y, x] = other[y, x]
    return out


@pytest.mark.parametrize("stages", COMPOSITIONS, ids=" ".join)
def test_the_teacher_saw_the_students_pixels(photos, teacher, tmp_path, stages):
    store = labelled(photos, teacher, tmp_path / "s.zarr", stages)
    assert store.law.mixing.partners == PHOTOS
    data = SoftLabelDataset(FolderSource(photos), store, normalize=None, check_pixels="raise")
    mixed, filter_name = 0, teacher.preprocessing.interpolation
    for image in range(PHOTOS):
        pixels, _ = data[Show(image, tuple(range(VIEWS)))]
        require_labels(store, teacher, image, np.arange(VIEWS), pixels)
        for view in (0, VIEWS - 1):
            expected = mixed_by_hand(store, photos, image, view, (64, 64), filter_name)
            np.testing.assert_array_equal(pixels[view].permute(1, 2, 0).numpy(), expected)
        mixed += int((store.views(image, range(VIEWS)).partners.image >= 0).sum())
    assert mixed == PHOTOS * VIEWS or "-p" in stages[-1]
    assert mixed > PHOTOS


def test_a_real_teacher_saw_the_students_pixels(photos, tmp_path):
    path = tmp_path / "lite0.safetensors"
    demo.place_teacher("tf_efficientnet_lite0", path)
    lite0 = load_teacher("timm:tf_efficientnet_lite0", checkpoint=str(path), device="cpu")
    stages = ("ra-n2-m9", "erase-0.5", "mix-0.8-1")
    store = labelled(photos, lite0, tmp_path / "s.parquet", stages, views=4, temperature=1.0)
    data = SoftLabelDataset(FolderSource(photos), store, normalize=None, check_pixels="raise")
    for image in range(PHOTOS):
        pixels, _ = data[Show(image, (0, 1, 2, 3))]
        require_labels(store, lite0, image, np.arange(4), pixels, temperature=1.0)
    assert replay(store, FolderSource(photos), lite0, 1.0).agrees


def test_labels_depend_on_no_order_of_work(photos, teacher, tmp_path):
    """Other blocks, batches, workers and orders of the photos: the same label of every view."""
    stages = ("mix-0.8-1",)
    one = labelled(photos, teacher, tmp_path / "a.zarr", stages, workers=1)
    source = FolderSource(photos)
    turned = [4, 2, 0, 3, 1]

    class Turned(FolderSource):
        def __init__(self, path):
            super().__init__(path)
            self.keys = tuple(self.keys[place] for place in turned)

    other = StoreSettings(k=5, quantizer="fp32", prior_size=0, block_images=5, group_views=6)
    settings = LabelSettings(VIEWS, other, law=ViewLaw(seed=3, stages=stages), temperature=0.1)
    targets = np.full(PHOTOS, -1, np.int32)
    options = RunOptions(batch_size=7, workers=3)
    generate(Turned(photos), targets, teacher, tmp_path / "b.zarr", settings, options=options)
    two = labelstore.open(tmp_path / "b.zarr")
    assert one.law == two.law
    for image, key in enumerate(source.keys):
        a, b = one.read(key, np.arange(VIEWS)), two.read(key, np.arange(VIEWS))
        np.testing.assert_allclose(a.probs, b.probs, atol=2e-5)
        ours = one.views(image, range(VIEWS)).partners
        theirs = two.views(two.index_of(key), range(VIEWS)).partners
        assert [one.keys[i] for i in ours.image] == [two.keys[i] for i in theirs.image]
        np.testing.assert_array_equal(ours.view, theirs.view)
    # So they can be averaged, and show the same pixels.
    both = labelstore.ensemble([one, two])
    data = SoftLabelDataset(source, both, normalize=None, check_pixels="raise")
    plain = SoftLabelDataset(source, one, normalize=None)
    assert torch.equal(data[Show(2, (0, 3))][0], plain[Show(2, (0, 3))][0])
    with pytest.raises(UsageError, match="FerKD was asked for and the views"):
        merge([one, two], tmp_path / "calibrated.zarr", ferkd=labelstore.FerKD())
    merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "both.zarr")
    merged = labelstore.open(tmp_path / "both.zarr")
    np.testing.assert_array_equal(
        merged.views(1, range(VIEWS)).partners.image, one.views(1, range(VIEWS)).partners.image
    )


def test_stores_of_other_photos_have_other_partners(photos, teacher, store, tmp_path):
    fewer = tmp_path / "fewer"
    shutil.copytree(photos, fewer)
    (fewer / store.keys[0]).unlink()
    other = labelled(fewer, teacher, tmp_path / "s.zarr", ("ta-wide", "mix-0.8-1-p0.8"))
    with pytest.raises(MismatchError, match="hold different views"):
        labelstore.ensemble([store, other], images="intersection")


def test_joins_and_batches_show_the_same_pixels_where_partners_are(photos, teacher, store):
    source = FolderSource(photos)
    data = SoftLabelDataset(source, store, normalize=None)
    options = {"normalize": None, "check_pixels": "raise", "partners": source}
    web = WebDatasetViews(store, 2, **options)
    hub = HuggingFaceViews(store, 2, key_column="key", **options)
    streaming = StreamingViews(store, 2, **options)
    for join in (web, hub, streaming):
        join.set_epoch(1)
    for image, key in enumerate(store.keys):
        views = web.order.views(np.array([image]), 1)[0]
        expected, _ = data[Show(image, tuple(views.tolist()))]
        encoded = (photos / key).read_bytes()
        name, suffix = key.rsplit(".", 1)
        assert torch.equal(web({"__key__": name, suffix: encoded})[0], expected)
        rows = hub({"key": [key], "image": [Image.open(photos / key)]})
        assert torch.equal(rows["pixels"][0], expected)
        assert torch.equal(streaming([{"key": key, "image": encoded}])[0], expected)
    size, interpolation = teacher.preprocessing.input_size, teacher.preprocessing.interpolation
    partners = PartnerPhotos(
        lambda image: decode((photos / store.keys[image]).read_bytes(), store.keys[image]),
        lambda image, *rest: store.law.unmixed(store.key_hashes[image], *rest),
    )
    for batch in Batches(store, 3, 2).epoch(0):
        for row, (image, view) in enumerate(zip(batch.images, batch.views, strict=True)):
            photo = decode((photos / store.keys[image]).read_bytes(), store.keys[image])
            shown = store.views(image, [view])
            assert batch.partners.image[row] == shown.partners.image[0]
            expected, _ = data[Show(int(image), (int(view),))]
            pixels = render(photo, shown, size, interpolation, partners=partners)
            np.testing.assert_array_equal(pixels[0], expected[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("join", [WebDatasetViews, HuggingFaceViews, StreamingViews])
def test_a_stream_without_partners_is_refused_in_one_sentence(store, join):
    with pytest.raises(UsageError, match="give partners=, all photos by key") as caught:
        join(store, 2)
    assert "\n" not in str(caught.value)


def test_workers_of_a_loader_show_the_same_pixels(photos, store):
    data = SoftLabelDataset(FolderSource(photos), store, normalize=None)
    assert pickle.loads(pickle.dumps(data._cutter._partners))._kept == {}
    sampler = ViewSampler(data, 2, seed=1)
    loader = torch.utils.data.DataLoader(
        data, 2, sampler=sampler, num_workers=2, collate_fn=collate_views
    )
    for pixels, labels in loader:
        for row, (image, view) in enumerate(zip(labels.image, labels.view, strict=True)):
            expected, _ = data[Show(int(image), (int(view),))]
            assert torch.equal(pixels[row], expected[0])


def test_render_without_partners_says_what_it_needs(photos, store):
    photo = decode((photos / store.keys[0]).read_bytes(), store.keys[0])
    with pytest.raises(UsageError, match="mixed with one of another photo"):
        render(photo, store.views(0, range(VIEWS)), (32, 32), "bilinear")


def test_a_partner_that_is_missing_or_another_file_is_noticed(photos, store, tmp_path):
    fewer = tmp_path / "fewer"
    shutil.copytree(photos, fewer)
    (fewer / store.keys[3]).unlink()
    with pytest.warns(match="lacks 1 of"), pytest.raises(MismatchError, match="with which views"):
        SoftLabelDataset(FolderSource(fewer), store)
    # Enough that it is among the partners.
    with pytest.warns(match="lacks 1 of"):
        SoftLabelDataset(FolderSource(fewer), store, partners=FolderSource(photos))
    partner = store.views(0, range(VIEWS)).partners.image
    view = int(np.argmax(partner >= 0))
    key = store.keys[int(partner[view])]
    Image.open(photos / key).save(fewer / key, quality=30)
    shutil.copy(photos / store.keys[3], fewer)
    if key == store.keys[3]:
        Image.open(photos / key).save(fewer / key, quality=30)
    changed = SoftLabelDataset(FolderSource(fewer), store, check_pixels=False)
    with pytest.raises(MismatchError, match="another file than the one that was"):
        changed[Show(0, (view,))]


def test_a_partner_that_cannot_be_decoded_takes_its_images_along(photos, teacher, tmp_path):
    broken = tmp_path / "photos"
    shutil.copytree(photos, broken)
    key = sorted(path.name for path in broken.iterdir())[2]
    (broken / key).write_bytes((broken / key).read_bytes()[:300])
    with pytest.raises(DecodeError, match=key):
        labelled(broken, teacher, tmp_path / "s.zarr", ("mixup-0.8-r2",), views=4)
    path = tmp_path / "t.zarr"
    store = labelled(broken, teacher, path, ("mixup-0.8-r2",), views=4, on_error="skip")
    partners = store.law.among(store.key_hashes)(
        store.key_hashes[:, None], np.arange(4), 500, 375
    ).partners.image
    lost = (partners == 2).any(axis=1)
    lost[2] = True
    np.testing.assert_array_equal(store.unreadable_rows(), lost)
    assert lost.sum() < PHOTOS
    data = SoftLabelDataset(FolderSource(broken), store, normalize=None, check_pixels="raise")
    for image in np.flatnonzero(~lost).tolist():
        pixels, _ = data[Show(image, (0, 1, 2, 3))]
        require_labels(store, teacher, image, np.arange(4), pixels)
    # Whole, and mixed with the one that is not: they are not tried in vain, and it is said why.
    commits = {name: data for name, data in files_of(path).items() if name.startswith("commits/")}
    report, made = repair(store, FolderSource(broken), teacher, skipped=True)
    assert report.whole
    assert made is None
    reasons = undecodable(store, FolderSource(broken))
    assert set(reasons) == {store.keys[image] for image in np.flatnonzero(lost)}
    for name, reason in reasons.items():
        assert key in reason
        assert ("mixed with a photo that cannot" in reason) == (name != key)
    assert {n: d for n, d in files_of(path).items() if n.startswith("commits/")} == commits
    shutil.copy(photos / key, broken / key)
    _, made = repair(store, FolderSource(broken), teacher, skipped=True)
    assert made is not None
    assert not made.unreadable
    assert labelstore.open(path).labelled().all()


def test_a_photo_that_changes_in_the_middle_of_a_run_is_noticed(photos, teacher, tmp_path):
    own = tmp_path / "photos"
    shutil.copytree(photos, own)

    class Changing(FolderSource):
        reads, last = 0, None

        def read(self, index):
            data = super().read(index)
            if index == 1:
                self.reads += 1
                if self.reads == self.last:
                    Image.open(own / self.keys[1]).save(own / self.keys[1], quality=40)
            return data

    settings = LabelSettings(VIEWS, STORED, law=ViewLaw(seed=3, stages=("mixup-1-r1",)))
    work = np.full(PHOTOS, -1, np.int32), teacher
    options = RunOptions(batch_size=4, workers=1)
    counted, changing = Changing(photos), Changing(own)
    generate(counted, *work, tmp_path / "a.zarr", settings, options=options)
    # The probe reads first; then the photo is cut once by itself, and once as a partner.
    changing.last = counted.reads - 1
    with pytest.raises(SourceError, match="has become another file"):
        generate(changing, *work, tmp_path / "b.zarr", settings, options=options)


@pytest.fixture(scope="module")
def many(photos, tmp_path_factory):
    """Twenty-four small photos, parts of five."""
    return small_photos(photos, tmp_path_factory.mktemp("many"), 24)


@pytest.mark.parametrize("change", [{"partners_digest": "0" * 32}, {"partners": PHOTOS - 1}])
def test_a_store_that_names_other_partners_shows_no_view(photos, store, tmp_path, change):
    """What its manifest says is sound in every checksum, and not of its images."""
    mixing = dataclasses.replace(store.law.mixing, **change)
    law = dataclasses.replace(store.law, stages=(*store.law.stages[:-1], mixing))
    shutil.copytree(store.path, tmp_path / "s.zarr")
    copy, source = labelstore.open(tmp_path / "s.zarr"), FolderSource(photos)
    manifest = dataclasses.replace(copy.manifest, law=law, probe=())
    with reissued(copy, manifest) as wrong:
        # Labels are what they are; of which pixels is not known.
        np.testing.assert_array_equal(wrong.read(1, 2).indices, store.read(1, 2).indices)
        data = SoftLabelDataset(source, wrong)
        web = WebDatasetViews(wrong, 1, partners=source)
        key = store.keys[1]
        refused = [
            lambda: wrong.views(1, 2),
            lambda: data[Show(1, (2,))],
            lambda: web({"__key__": key.rsplit(".", 1)[0], "jpg": (photos / key).read_bytes()}),
            lambda: next(iter(Batches(wrong, 2).epoch(0))),
            lambda: labelstore.ensemble([wrong, wrong]),
            lambda: labelstore.ensemble([store, wrong]),
            lambda: subset(wrong, tmp_path / "part.zarr", views=range(2)),
        ]
        for call in refused:
            with pytest.raises(MismatchError) as caught:
                call()
            assert "\n" not in str(caught.value)


def test_a_partner_that_another_run_labelled_is_the_same_file(many, teacher, tmp_path):
    """Also where no sample looks at it."""
    own = tmp_path / "photos"
    shutil.copytree(many, own)
    law = ViewLaw(seed=3, stages=("mixup-1-r1",))
    stored = StoreSettings(k=5, quantizer="fp32", prior_size=0, block_images=12, group_views=2)
    settings = LabelSettings(VIEWS, stored, law=law, temperature=0.1)
    source, path = FolderSource(own), tmp_path / "s.zarr"
    work = np.full(24, -1, np.int32), teacher, path, settings
    options = RunOptions(batch_size=12)
    with pytest.raises(StopError):
        generate(source, *work, options=options, progress=StopAfter(16))
    store = labelstore.open(path)
    assert store.missing_blocks() == [1]
    changed = own / store.keys[unlooked_partner(store, np.arange(12), range(12), range(12, 24))]
    before = changed.read_bytes()
    Image.open(changed).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(changed)
    with pytest.raises(MismatchError, match=f"{changed.name}' is another file here") as caught:
        generate(source, *work, options=options)
    assert "\n" not in str(caught.value)
    assert labelstore.open(path).missing_blocks() == [1]
    # So of several processes that share the work.
    shared = RunOptions(batch_size=12, share=Share(0, 2))
    with pytest.raises(MismatchError, match=f"{changed.name}' is another file here"):
        generate(source, *work, options=shared)
    changed.write_bytes(before)
    assert generate(source, *work, options=shared).blocks_missing == 0
    # So in repair, whatever block it is.
    files = files_of(path)
    shard = next(name for name in files if name.startswith("labels/top_prob/c/0"))
    (path / shard).write_bytes(b"")
    store = labelstore.open(path)
    changed = own / store.keys[unlooked_partner(store, np.arange(24), range(12, 24), range(12))]
    before = changed.read_bytes()
    Image.open(changed).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(changed)
    with pytest.raises(MismatchError, match=f"{changed.name}' is another file here"):
        repair(path, source, teacher, options=options)
    changed.write_bytes(before)
    repair(path, source, teacher, options=options)
    assert files_of(path) == files


def test_a_store_grows_and_its_old_views_keep_their_partners(photos, teacher, tmp_path):
    stages = ("gray-0.3", "mix-0.8-1")
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    names = sorted(path.name for path in photos.iterdir())
    # New photos come before, between and behind the old ones.
    for name in (names[1], names[2], names[3]):
        shutil.copy(photos / name, fewer)
    old = labelled(fewer, teacher, tmp_path / "old.zarr", stages, views=2)
    source, new = FolderSource(photos), tmp_path / "new.zarr"
    grow(tmp_path / "old.zarr", source, teacher, new, num_views=VIEWS)
    store = labelstore.open(new)
    assert store.law == old.law
    assert store.law.mixing.partners == 3
    np.testing.assert_array_equal(
        store.views(range(3), 1).partners.image, old.views(range(3), 1).partners.image
    )
    partners = store.views(np.arange(PHOTOS)[:, None], range(VIEWS)).partners.image
    assert partners.max() == 2
    data = SoftLabelDataset(source, store, normalize=None, check_pixels="raise")
    for image in range(PHOTOS):
        pixels, _ = data[Show(image, tuple(range(VIEWS)))]
        require_labels(store, teacher, image, np.arange(VIEWS), pixels)
    # A block of it made anew on its own would lack the partners of other blocks.
    with pytest.raises(UsageError, match="grow the old store again"):
        repair(new, source, teacher)
    # A photo that others are mixed with cannot be labelled anew alone.
    Image.open(fewer / names[1]).save(fewer / names[1], quality=30)
    with pytest.raises(MismatchError, match="mixed"):
        grow(
            tmp_path / "old.zarr",
            FolderSource(fewer),
            teacher,
            tmp_path / "again.zarr",
            num_views=VIEWS,
            relabel_changed=True,
        )


def test_a_damaged_block_is_made_again(photos, teacher, tmp_path):
    store = labelled(photos, teacher, tmp_path / "s.zarr", ("mix-0.8-1",))
    before = files_of(tmp_path / "s.zarr")
    shard = next(name for name in before if name.startswith("labels/top_prob/c/0"))
    (tmp_path / "s.zarr" / shard).write_bytes(b"")
    report = repair(store, FolderSource(photos), teacher, options=RunOptions(batch_size=4))[1]
    assert report.blocks_made == 1
    assert files_of(tmp_path / "s.zarr") == before


def test_a_part_keeps_all_images_or_is_refused(store, tmp_path):
    subset(store, tmp_path / "first.zarr", views=range(2))
    first = labelstore.open(tmp_path / "first.zarr")
    assert first.law == store.law
    np.testing.assert_array_equal(
        first.views(2, range(2)).partners.image, store.views(2, range(2)).partners.image
    )
    with pytest.raises(MismatchError, match="keep all images of the store"):
        subset(store, tmp_path / "fewer.zarr", images=[0, 1, 4])
    with pytest.raises(UsageError, match="keep the views from 0 on"):
        subset(store, tmp_path / "other.zarr", views=range(1, 3))
    assert not (tmp_path / "fewer.zarr").exists()


def test_the_probe_has_mixed_views_and_notices_another_blend(photos, monkeypatch):
    law = ViewLaw(seed=3, stages=("mix-0.8-1",))
    shape, source = ((32, 32), "bilinear"), FolderSource(photos)
    probe = make_probe(source, shape, law, 100)
    assert replay_probe(probe, read_by_key(source), law, shape, source.keys)[0] == []
    from labelstore.images.mixing import blend

    for name in ("mixup", "cutmix"):
        with monkeypatch.context() as patch:
            patch.setitem(blend.MIXING, name, lambda view, partner, values: None)
            assert replay_probe(probe, read_by_key(source), law, shape, source.keys)[0]
    # Without a photo that views are mixed with, nothing is known of them.
    places = {key: place for place, key in enumerate(source.keys) if place != 4}
    assert replay_probe(probe, read_by_key(source, places), law, shape, source.keys)[0]


def test_what_needs_one_ground_truth_is_refused(photos, store):
    source = FolderSource(photos)
    for options in ({"ferkd": labelstore.FerKD()}, {"phases": LabelPhases(4)}):
        with pytest.raises(UsageError, match="ground truth of two photos") as caught:
            SoftLabelDataset(source, store, **options)
        assert "\n" not in str(caught.value)


def test_other_projects_files_are_not_told_of_mixed_views(store, tmp_path):
    with pytest.raises(UsageError, match="show other views than were labelled") as caught:
        export(store, tmp_path / "labels.npz", Npz())
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_plan_samples_mixed_views(photos, teacher):
    source, law = FolderSource(photos), ViewLaw(seed=3, stages=("mix-0.8-1",))
    seen = []
    plan = {"temperature": 1.0, "images": 3, "views": 3, "batch_size": 3}
    sample = sample_of_teacher(source, teacher, law, **plan, tell=lambda *done: seen.append(done))
    assert sample.labels.shape == (3, 3, 1000)
    plain = sample_of_teacher(source, teacher, law.unmixed, **plan)
    assert (sample.labels != plain.labels).any(axis=2).all()
    assert len(seen) == 3


def test_ground_truth_of_mixed_views_is_unknown_in_training(photos, teacher, tmp_path):
    source = FolderSource(photos)
    law = ViewLaw(seed=3, stages=("mixup-0.8-p0.5",))
    settings = LabelSettings(VIEWS, STORED, law=law, temperature=0.1)
    truth = np.arange(PHOTOS, dtype=np.int32)
    generate(source, truth, teacher, tmp_path / "s.zarr", settings)
    store = labelstore.open(tmp_path / "s.zarr")
    mixed = store.views(2, range(VIEWS)).partners.image >= 0
    assert 0 < mixed.sum() < VIEWS
    expected = np.where(mixed, -1, 2).tolist()
    for labels in ("recovered", "stored"):
        data = SoftLabelDataset(source, store, labels=labels)
        assert data[Show(2, tuple(range(VIEWS)))][1].target.tolist() == expected
    for batch in Batches(store, 5, 2).epoch(0):
        own = batch.partners.image < 0
        np.testing.assert_array_equal(batch.targets, np.where(own, batch.images, -1))


def test_a_single_photo_has_no_partner(photos, teacher, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(next(photos.iterdir()), alone)
    with pytest.raises(UsageError, match="give more photos"):
        labelled(alone, teacher, tmp_path / "s.zarr", ("mixup-0.8",))
    assert not (tmp_path / "s.zarr").exists()


def run(*arguments):
    command = [sys.executable, "-m", "labelstore", *map(str, arguments)]
    return commands.run(command)


def test_from_the_command_line(photos, tmp_path):
    teacher = ("--teacher", "timm:test_resnet", "--checkpoint", "none", "--device", "cpu")
    common = ("generate", photos, *teacher, "--targets", "none", "--views", 3)
    stages = ("--augment", "jitter-0.4", "--augment", "mix-0.8-1")
    done = run(*common, "-o", tmp_path / "s.zarr", *stages)
    assert done.returncode == 0, done.stderr
    store = labelstore.open(tmp_path / "s.zarr")
    assert [str(stage) for stage in store.law.stages] == list(stages[1::2])
    assert store.manifest.to_json()["format_version"] == VERSION_2
    again = run(*common, "-o", tmp_path / "s.zarr", *stages, "--json")
    assert (again.returncode, json.loads(again.stdout)["blocks_made"]) == (0, 0)
    first = run(*common, "-o", tmp_path / "t.zarr", *stages[2:], *stages[:2])
    assert (first.returncode, "as the last" in first.stderr) == (2, True)
    told = " ".join(run("inspect", tmp_path / "s.zarr").stdout.split())
    assert "jitter-0.4, mix-0.8-1" in told
    assert f"mixed with those of {PHOTOS} images" in told
    sheet = ("--save", tmp_path / "sheet.png")
    drawn = run("show", tmp_path / "s.zarr", 0, "--photos", photos, *sheet)
    assert drawn.returncode == 0, drawn.stderr
    shown = json.loads(run("show", tmp_path / "s.zarr", 0, "--json").stdout)["views"]
    views = store.views(0, range(3))
    for view in shown:
        step = view["operations"][-1]
        mixed, place = views.stages[-1], view["view"]
        assert step["name"] == mixed.names[mixed.operation[place, 0]]
        assert step["values"] == mixed.values[place, 0].tolist()
        assert step["partner"] == store.keys[views.partners.image[place]]
        assert step["partner_view"] == views.partners.view[place]
        assert step["partner"] in drawn.stdout
    assert "mixed views show two photos" in " ".join(drawn.stdout.split())
