"""WebDataset's pipeline: photos from tar shards, their views and labels joined by key."""

from __future__ import annotations

import gc
import io
import itertools
import tarfile
import warnings
from pathlib import Path

import pytest
import torch
import webdataset
from PIL import Image

import labelstore
from labelstore.errors import (
    MismatchError,
    NotFoundError,
    PartialDataWarning,
    ReplayWarning,
    UsageError,
)
from labelstore.images.decoding import decode, is_upright
from labelstore.images.sources.tar import TarSource
from labelstore.torch import SoftLabelDataset, ViewSampler, WebDatasetViews, collate_views
from labelstore.torch.dataset import Show
from tests.support.training import make_store

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def shards_that_webdataset_left_open():
    """Closed here, where nobody is told, not in whichever test comes next."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def shards(work, tmp_path_factory):
    """Two shards of the photos, as WebDataset's tools make them."""
    folder = tmp_path_factory.mktemp("shards")
    files = sorted(work.photos.rglob("*.jpg"))
    for number, part in enumerate((files[:8], files[8:])):
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for file in part:
                archive.add(file, file.relative_to(work.photos).as_posix())
    return [str(path) for path in sorted(folder.glob("*.tar"))]


def pipeline(shards, views, decoded=False):
    data = webdataset.WebDataset(shards, shardshuffle=False)
    return (data.decode("pil") if decoded else data).map(views)


def epoch_of(data, views, epoch, workers=0):
    """image -> its view numbers, pixels and labels."""
    views.set_epoch(epoch)
    loader = torch.utils.data.DataLoader(
        data, batch_size=4, collate_fn=collate_views, num_workers=workers
    )
    found = {}
    for pixels, target in loader:
        for row in range(0, len(target), 2):
            part = slice(row, row + 2)
            image = int(target.image[row])
            assert image not in found
            found[image] = (target.view[part].tolist(), pixels[part], target.dense()[part])
    return found


@pytest.mark.parametrize(("workers", "decoded"), [(0, False), (2, False), (0, True)])
def test_a_photo_shows_what_the_sampler_would_show_of_it(store, photos, shards, workers, decoded):
    views = WebDatasetViews(store, views_per_image=2, seed=3)
    data = pipeline(shards, views, decoded)
    direct = SoftLabelDataset(photos, store)
    sampler = ViewSampler(store, views_per_image=2, seed=3)
    for epoch in (0, 4):
        found = epoch_of(data, views, epoch, workers)
        sampler.set_epoch(epoch)
        assert len(found) == 14
        for show in sampler:
            numbers, pixels, labels = found[show.image]
            expected, target = direct[show]
            assert numbers == list(show.views)
            assert (pixels == expected).all()
            assert (labels == target.dense()).all()


def test_workers_that_stay_see_the_epoch_change(store, shards):
    views = WebDatasetViews(store, views_per_image=2)
    loader = torch.utils.data.DataLoader(
        pipeline(shards, views),
        batch_size=4,
        collate_fn=collate_views,
        num_workers=1,
        persistent_workers=True,
    )
    sampler = ViewSampler(store, views_per_image=2)
    for epoch in range(2):
        views.set_epoch(epoch)
        sampler.set_epoch(epoch)
        shown = {
            (image, view)
            for _, target in loader
            for image, view in zip(target.image.tolist(), target.view.tolist(), strict=True)
        }
        assert shown == {(show.image, view) for show in sampler for view in show.views}


def test_a_store_that_was_made_from_the_shards(work, shards, tmp_path):
    source = TarSource(Path(shards[0]).parent)
    files = tmp_path / "photos"
    for number, key in enumerate(source.keys):
        (files / key).parent.mkdir(parents=True, exist_ok=True)
        (files / key).write_bytes(source.read(number))
    renamed = [key for key in source.keys if not key.endswith(".jpg")]
    store = make_store(tmp_path / "s.zarr", files, renamed)
    views = WebDatasetViews(store)
    keys = {store.keys[int(target.image[0])] for _, target in pipeline(shards, views)}
    assert keys == set(source.keys)
    assert "a/photo 0" in keys


def test_fields_and_suffixes_of_other_names(work, shards, tmp_path):
    """``input.jpg`` beside the store's keys without suffix, and .jpeg for the folder's .jpg."""
    store = labelstore.open(work.store)
    key = next(key for key in store.keys if key.endswith(".jpg"))
    encoded, stem = (work.photos / key).read_bytes(), key.removesuffix(".jpg")
    image = int(store.index_of([key])[0])
    for field in ("jpg", "JPG", "jpeg"):
        _, target = WebDatasetViews(store)({"__key__": stem, field: encoded})
        assert target.image.tolist() == [image]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "photo 0").write_bytes(encoded)
    bare = make_store(tmp_path / "s.zarr", tmp_path, ["a/photo 0"])
    views = WebDatasetViews(bare)
    assert views({"__key__": "./a/photo 0", "input.jpg": encoded, "x.json": b"{}"}) is not None
    with pytest.raises(UsageError, match="expected one image: say which"):
        views({"__key__": "a/photo 0", "input.jpg": encoded, "target.jpg": encoded})


def test_pixels_that_webdataset_decoded_to_arrays(work, shards):
    store = labelstore.open(work.store)
    upright = [key for key in store.keys if not is_turned(work.photos / key)]
    stream = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8")
    samples = [s for s in stream if f"{s['__key__']}.jpg" in upright]
    views = WebDatasetViews(store)
    for sample in samples:
        key = f"{sample['__key__']}.jpg"
        pixels, _ = views(sample)
        expected, _ = views(sample | {"jpg": (work.photos / key).read_bytes()})
        assert torch.equal(pixels, expected)
    assert len(samples) > 3


def is_turned(file):
    """Whether a photo is turned by its EXIF data."""
    with Image.open(file) as image:
        return not is_upright(image)


def test_skipping_every_sample_is_told(store, work):
    views = WebDatasetViews(store, unknown="skip")
    encoded = (work.photos / store.keys[0]).read_bytes()
    strange = [{"__key__": f"strange/{n}", "jpg": encoded} for n in range(150)]
    with pytest.warns(PartialDataWarning, match="none of the first 100 samples") as told:
        assert [views(sample) for sample in strange] == [None] * 150
    assert len(told) == 1
    other = WebDatasetViews(store, unknown="skip")
    known = {"__key__": store.keys[0].removesuffix(".jpg"), "jpg": encoded}
    assert sum(other(sample) is not None for sample in [*strange[:50], known, *strange]) == 1


def test_other_files_under_the_same_keys_are_refused(work, shards, tmp_path):
    # Copies of the photos encoded anew, packed into shards by the same names.
    source = TarSource(Path(shards[0]).parent)
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for number, key in enumerate(source.keys):
            buffer = io.BytesIO()
            decode(source.read(number), key).save(buffer, "jpeg", quality=70)
            member = tarfile.TarInfo(f"{key}.jpg")
            member.size = buffer.tell()
            archive.addfile(member, io.BytesIO(buffer.getvalue()))
    store = labelstore.open(work.store)
    copies = [str(tmp_path / "0.tar")]
    with pytest.raises(MismatchError, match="is another file than the one that was labelled"):
        list(pipeline(copies, WebDatasetViews(store)))
    assert len(list(pipeline(copies, WebDatasetViews(store, check_photos="size")))) == 14


def test_images_without_labels_and_beyond_a_budget_are_passed_over(work, shards, tmp_path):
    keys = sorted(path.relative_to(work.photos).as_posix() for path in work.photos.rglob("*.jpg"))
    store = make_store(tmp_path / "s.zarr", work.photos, keys, broken=5)
    views = WebDatasetViews(store, views_per_image=2)
    assert sorted(epoch_of(pipeline(shards, views), views, 0)) == [*range(5), *range(6, 14)]
    half = WebDatasetViews(store, views_per_image=2, budget=0.5)
    sampler = ViewSampler(store, views_per_image=2, budget=0.5)
    for epoch in range(2):
        found = epoch_of(pipeline(shards, half), half, epoch)
        sampler.set_epoch(epoch)
        assert sorted(found) == sorted(show.image for show in sampler)


def test_samples_that_the_store_lacks(store, work, shards):
    views = WebDatasetViews(store)
    encoded = (work.photos / store.keys[0]).read_bytes()
    with pytest.raises(NotFoundError, match="a/other"):
        views({"__key__": "a/other", "jpg": encoded})
    lenient = WebDatasetViews(store, unknown="skip")
    assert lenient({"__key__": "a/other", "jpg": encoded}) is None
    with pytest.raises(UsageError, match='expected "raise" or "skip"'):
        WebDatasetViews(store, unknown="ignore")


def test_samples_that_are_not_the_stores(store, work, shards):
    views = WebDatasetViews(store)
    key, other = store.keys[0], store.keys[1]
    with pytest.raises(MismatchError, match="was labelled"):
        views({"__key__": key.removesuffix(".jpg"), "jpg": (work.photos / other).read_bytes()})
    with pytest.raises(UsageError, match="expected one image: say which"):
        views({"__key__": key, "txt": b"a"})
    with pytest.raises(UsageError, match="expected one image called 'png'"):
        WebDatasetViews(store, field="png")({"__key__": key, "jpg": b"a"})


def test_other_pixels_than_the_teacher_saw_are_told_once(work, shards, tmp_path):
    keys = sorted(path.relative_to(work.photos).as_posix() for path in work.photos.rglob("*.jpg"))
    spoilt = make_store(tmp_path / "a.zarr", work.photos, keys, probe=lambda digest: "0" * 32)
    views = WebDatasetViews(spoilt)
    data = pipeline(shards, views)
    with pytest.warns(ReplayWarning, match="other pixels") as told:
        list(itertools.chain(data, data))
    # One for each probed photo; webdataset itself warns of other things.
    assert sum(warning.category is ReplayWarning for warning in told) == 2
    with pytest.raises(MismatchError, match="other pixels"):
        list(pipeline(shards, WebDatasetViews(spoilt, check_pixels="raise")))
    list(pipeline(shards, WebDatasetViews(spoilt, check_pixels=False)))
    same = make_store(tmp_path / "b.zarr", work.photos, keys, probe=lambda digest: digest)
    list(pipeline(shards, WebDatasetViews(same)))


def test_a_data_set_without_photos_gives_none(store):
    with pytest.raises(UsageError, match="views_of"):
        SoftLabelDataset(None, store)[Show(0, (1,))]
