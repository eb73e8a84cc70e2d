"""Hugging Face's datasets: rows become views and labels by set_transform."""

from __future__ import annotations

import os
from pathlib import Path

import datasets
import pytest
import torch

from labelstore.errors import MismatchError, NotFoundError, SourceError, UsageError
from labelstore.torch import HuggingFaceViews, SoftLabelDataset, ViewSampler, collate_views


@pytest.fixture(scope="module")
def table(work, tmp_path_factory):
    """The photos as a data set of encoded images, in an order of its own, with their keys."""
    files = sorted(work.photos.rglob("*.jpg"), key=lambda path: path.name)
    keys = [file.relative_to(work.photos).as_posix() for file in files]
    features = datasets.Features({"image": datasets.Image(), "key": datasets.Value("string")})
    images = [
        {"bytes": file.read_bytes(), "path": key} for file, key in zip(files, keys, strict=True)
    ]
    return datasets.Dataset.from_dict({"image": images, "key": keys}, features=features)


def check(data, views, store, photos, epoch, workers=0):
    """Every photo shows what the sampler would show of it."""
    views.set_epoch(epoch)
    loader = torch.utils.data.DataLoader(
        data, batch_size=5, shuffle=True, collate_fn=collate_views, num_workers=workers
    )
    found = {}
    for pixels, target in loader:
        for row in range(0, len(target), 2):
            part = slice(row, row + 2)
            found[int(target.image[row])] = (
                target.view[part].tolist(),
                pixels[part],
                target.dense()[part],
            )
    assert len(found) == len(data)
    sampler = ViewSampler(store, views_per_image=2, seed=3)
    sampler.set_epoch(epoch)
    direct = SoftLabelDataset(photos, store)
    for show in sampler:
        if show.image in found:
            numbers, pixels, labels = found[show.image]
            expected, target = direct[show]
            assert numbers == list(show.views)
            assert (pixels == expected).all()
            assert (labels == target.dense()).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_decoded_images_with_a_key_column(table, store, photos, workers):
    views = HuggingFaceViews(store, views_per_image=2, seed=3, key_column="key")
    data = table.with_transform(views)
    for epoch in (0, 3):
        check(data, views, store, photos, epoch, workers)


def test_encoded_images_are_found_by_their_path(table, store, photos):
    views = HuggingFaceViews(store, views_per_image=2, seed=3)
    data = table.cast_column("image", datasets.Image(decode=False)).select(range(9))
    data.set_transform(views)
    check(data, views, store, photos, 1)
    row = data[4]
    assert row["pixels"].shape == (2, 3, 24, 20)
    assert len(row["labels"]) == 2


def test_local_files(work, store, photos):
    files = [str(path) for path in sorted(work.photos.rglob("*.jpg"))]
    data = datasets.Dataset.from_dict({"image": files})
    data = data.cast_column("image", datasets.Image(decode=False))
    views = HuggingFaceViews(store, views_per_image=2, seed=3, root=str(work.photos))
    check(data.with_transform(views), views, store, photos, 2)
    other = HuggingFaceViews(store, root="/elsewhere")
    with pytest.raises(UsageError, match="lies outside the folder /elsewhere"):
        data.with_transform(other)[0]


@pytest.mark.parametrize("held", ["bytes", "paths"])
def test_other_files_under_the_same_keys_are_refused(work, store, tmp_path, held):
    keys = sorted(path.relative_to(work.photos).as_posix() for path in work.photos.rglob("*.jpg"))
    images = []
    for key in keys:
        (tmp_path / key).parent.mkdir(exist_ok=True)
        # The same pixels to the last bit in another file.
        (tmp_path / key).write_bytes((work.photos / key).read_bytes() + b"0")
        data = (tmp_path / key).read_bytes() if held == "bytes" else None
        images.append({"bytes": data, "path": key if held == "bytes" else str(tmp_path / key)})
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "key": datasets.Value("string")}
    )
    table = datasets.Dataset.from_dict({"image": images, "key": keys}, features=features)
    strict, lenient = (
        HuggingFaceViews(store, key_column="key", check_photos=check)
        for check in ("digest", "size")
    )
    with pytest.raises(MismatchError, match="is another file than the one that was labelled"):
        table.with_transform(strict)[3]
    assert table.with_transform(lenient)[3]["pixels"].shape == (1, 3, 24, 20)


def test_a_file_that_cannot_be_read_is_told_with_the_mend(store, tmp_path):
    views = HuggingFaceViews(store, key_column="key")
    os.mkfifo(tmp_path / "pipe")
    rows = [tmp_path / "gone.jpg", tmp_path, tmp_path / "pipe", Path("/dev/zero"), "a\0b"]
    for path in rows:
        row = {"image": [{"path": str(path), "bytes": None}], "key": [store.keys[0]]}
        with pytest.raises(SourceError, match=r"cannot read the image .* restore the file"):
            views(row)
    for path in (None, 5):
        with pytest.raises(UsageError, match=f"whose path is {path}"):
            views({"image": [{"path": path}], "key": [store.keys[0]]})


def test_rows_that_cannot_be_joined_are_refused(table, store):
    with pytest.raises(UsageError, match="come without their paths"):
        table.with_transform(HuggingFaceViews(store))[0]
    with pytest.raises(UsageError, match="no 'photo'"):
        table.with_transform(HuggingFaceViews(store, image_column="photo"))[0]
    keyed = HuggingFaceViews(store, key_column="key")
    renamed = table.map(lambda row: {"key": "x" + row["key"]}, new_fingerprint="x")
    with pytest.raises(NotFoundError, match="no image with key 'x"):
        renamed.with_transform(keyed)[0]
    with pytest.raises(UsageError, match="a transform cannot leave rows out"):
        HuggingFaceViews(store, budget=0.5)


def test_an_epoch_reaches_tables_made_of_a_table(work, store, table):
    views = HuggingFaceViews(store, views_per_image=2, seed=3, key_column="key")
    data = table.with_transform(views)
    # datasets copies the transform with a table whose columns are renamed.
    renamed = data.rename_column("key", "name").rename_column("name", "key")
    for epoch in (0, 4):
        views.set_epoch(epoch)
        sampler = ViewSampler(store, views_per_image=2, seed=3)
        sampler.set_epoch(epoch)
        expected = {show.image: show.views for show in sampler}
        for part in (data, renamed):
            labels = part[1]["labels"]
            assert tuple(labels.view.tolist()) == expected[int(labels.image[0])]
