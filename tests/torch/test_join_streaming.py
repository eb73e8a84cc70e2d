"""litdata's and mosaicml-streaming's data sets: photos from their files, joined by key.

mosaicml-streaming asks for an older NumPy than this project gets: its half is run where somebody
has installed it.
"""

from __future__ import annotations

import gc
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from PIL import Image

from labelstore.errors import MismatchError, NotFoundError, PartialDataWarning, UsageError
from labelstore.images.decoding import decode
from labelstore.torch import SoftLabelDataset, StreamingViews, ViewSampler
from labelstore.torch.dataset import Show
from tests.support.training import make_store

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)

FORMATS = ["litdata", "mds"]


class Samples(NamedTuple):
    """A data set on the disk in one of the formats."""

    format: str
    folder: Path

    def open(self, **options: Any):
        """The library's own data set."""
        if self.format == "litdata":
            import litdata

            return litdata.StreamingDataset(str(self.folder), **options)
        import streaming

        streaming.base.util.clean_stale_shared_memory()
        return streaming.StreamingDataset(local=str(self.folder), batch_size=4, **options)

    def loader(self, data, views, **options: Any):
        """The library's own loader."""
        if self.format == "litdata":
            import litdata

            return litdata.StreamingDataLoader(data, batch_size=4, collate_fn=views, **options)
        import streaming

        return streaming.StreamingDataLoader(data, batch_size=4, collate_fn=views, **options)


def write(kind: str, folder: Path, samples: list[dict[str, Any]]) -> Samples:
    """Write samples with the library's own writer."""
    if kind == "litdata":
        from litdata.streaming.cache import Cache

        writer = Cache(str(folder), chunk_bytes=20_000)
        for number, sample in enumerate(samples):
            writer[number] = sample
        writer.done()
        writer.merge()
        return Samples(kind, folder)
    streaming = pytest.importorskip("streaming")
    columns = {
        name: {bytes: "bytes", str: "str", int: "int"}.get(type(value), "jpeg")
        for name, value in samples[0].items()
    }
    with streaming.MDSWriter(out=str(folder), columns=columns, size_limit=20_000) as out:
        for sample in samples:
            out.write(sample)
    return Samples(kind, folder)


def encoded(photos: Path, **names: str) -> list[dict[str, Any]]:
    """A sample of each photo, its file as it is, in an order of their own."""
    key, image = names.get("key", "key"), names.get("image", "image")
    files = sorted(photos.rglob("*.jpg"), key=lambda path: path.name)
    return [
        {key: file.relative_to(photos).as_posix(), image: file.read_bytes(), "class": 3}
        for file in files
    ]


@pytest.fixture(autouse=True)
def what_the_libraries_left_open():
    """Closed here, where nobody is told, not in whichever test comes next."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(scope="module", params=FORMATS)
def samples(request, work, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "set"
    return write(request.param, folder, encoded(work.photos))


def epoch_of(loader, views, epoch):
    """image -> its view numbers, pixels and labels."""
    views.set_epoch(epoch)
    shown = {}
    for pixels, target in loader:
        for row in range(0, len(target), 2):
            part = slice(row, row + 2)
            image = int(target.image[row])
            assert image not in shown
            shown[image] = (target.view[part].tolist(), pixels[part], target.dense()[part])
    return shown


@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_shows_what_the_sampler_would_show_of_it(store, photos, samples, workers):
    views = StreamingViews(store, views_per_image=2, seed=3)
    loader = samples.loader(samples.open(shuffle=True), views, num_workers=workers)
    direct = SoftLabelDataset(photos, store)
    sampler = ViewSampler(store, views_per_image=2, seed=3)
    for epoch in (0, 4):
        shown = epoch_of(loader, views, epoch)
        sampler.set_epoch(epoch)
        assert len(shown) == 14
        for show in sampler:
            numbers, pixels, labels = shown[show.image]
            expected, target = direct[show]
            assert numbers == list(show.views)
            assert (pixels == expected).all()
            assert (labels == target.dense()).all()


def test_workers_that_stay_see_the_epoch_change(store, samples):
    views = StreamingViews(store, views_per_image=2)
    loader = samples.loader(samples.open(), views, num_workers=1, persistent_workers=True)
    sampler = ViewSampler(store, views_per_image=2)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        shown = epoch_of(loader, views, epoch)
        assert {image: numbers for image, (numbers, _, _) in shown.items()} == {
            show.image: list(show.views) for show in sampler
        }


def test_a_run_that_goes_on_shows_the_rest_of_the_epoch(store, samples):
    """After the first of four batches, by the count of photos (not of views)."""
    views = StreamingViews(store, views_per_image=2)
    views.set_epoch(1)
    loader = samples.loader(samples.open(shuffle=True), views)
    batches = iter(loader)
    first = {int(image) for image in next(batches)[1].image}
    if samples.format == "litdata":
        state = loader.state_dict()
    else:
        state = loader.dataset.state_dict(4, False)
    whole = [target.image.tolist() for _, target in batches]
    again = samples.loader(samples.open(shuffle=True), views)
    if samples.format == "litdata":
        again.load_state_dict(state)
    else:
        again.dataset.load_state_dict(state)
    rest = [target.image.tolist() for _, target in again]
    assert rest == whole
    assert first.isdisjoint(image for batch in rest for image in batch)
    assert len(first) == 4


# litdata makes tensors of arrays that it must not write to.
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
@pytest.mark.parametrize("kind", FORMATS)
def test_images_that_the_library_decodes(work, store, tmp_path, kind):
    """A column of JPEG files: litdata gives tensors, mosaicml-streaming images of Pillow's."""
    rows = encoded(work.photos)
    rows = [row | {"image": Image.open(work.photos / row["key"])} for row in rows]
    data = write(kind, tmp_path / "set", rows)
    views = StreamingViews(store, views_per_image=2)
    shown = epoch_of(data.loader(data.open(), views), views, 0)
    direct = SoftLabelDataset(None, store)
    assert len(shown) == 14
    for row in rows:
        image = int(store.index_of([row["key"]])[0])
        numbers, pixels, _ = shown[image]
        photo = (work.photos / row["key"]).read_bytes()
        ((expected, _),) = direct.views_of(
            [Show(image, tuple(numbers))], [decode(photo, row["key"])]
        )
        assert torch.equal(pixels, expected)


@pytest.mark.parametrize("kind", FORMATS)
def test_other_files_under_the_same_keys_are_refused(work, store, tmp_path, kind):
    rows = [row | {"image": row["image"] + b"0"} for row in encoded(work.photos)]
    data = write(kind, tmp_path / "set", rows)
    strict = StreamingViews(store)
    with pytest.raises(MismatchError, match="is another file than the one that was labelled"):
        list(data.loader(data.open(), strict))
    lenient = StreamingViews(store, check_photos="size")
    assert sum(len(target) for _, target in data.loader(data.open(), lenient)) == 14


def test_images_without_labels_and_beyond_a_budget_are_left_out(work, samples, tmp_path):
    keys = sorted(path.relative_to(work.photos).as_posix() for path in work.photos.rglob("*.jpg"))
    store = make_store(tmp_path / "s.zarr", work.photos, keys, broken=5)
    views = StreamingViews(store, views_per_image=2)
    shown = epoch_of(samples.loader(samples.open(), views), views, 0)
    assert sorted(shown) == [*range(5), *range(6, 14)]
    half = StreamingViews(store, views_per_image=2, budget=0.5)
    rows = encoded(work.photos)
    _, target = half(rows)
    sampler = ViewSampler(store, views_per_image=2, budget=0.5)
    assert sorted(target.image[::2].tolist()) == sorted(show.image for show in sampler)
    left_out = [
        row for row in rows if int(store.index_of([row["key"]])[0]) not in target.image.tolist()
    ]
    with pytest.raises(UsageError, match="none of the 7 samples of a batch is shown in epoch 0"):
        half(left_out[:7])


def test_samples_that_cannot_be_joined(work, store):
    rows = encoded(work.photos)
    strange = {"key": "a/other", "image": rows[0]["image"]}
    with pytest.raises(NotFoundError, match="no image with key 'a/other"):
        StreamingViews(store)([rows[0], strange])
    pixels, target = StreamingViews(store, unknown="skip")([rows[0], strange])
    assert len(pixels) == len(target) == 1
    many = [strange] * 150
    with (
        pytest.warns(PartialDataWarning, match="none of the first 100 samples"),
        pytest.raises(UsageError, match="none of the 150 samples"),
    ):
        StreamingViews(store, unknown="skip")(many)
    with pytest.raises(UsageError, match="columns key, image, class and no 'name'"):
        StreamingViews(store, key_column="name")(rows)
    with pytest.raises(UsageError, match="a sample is a tuple, expected a dict with the columns"):
        StreamingViews(store)([(rows[0]["image"], 3)])
    named = encoded(work.photos, key="file", image="photo")
    views = StreamingViews(store, key_column="file", image_column="photo")
    assert len(views(named)[1]) == 14
