"""Samples against a slow replay with Pillow's own calls and direct reads of the store."""

from __future__ import annotations

import io
import pickle
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import Lambda, functional as T

import labelstore
from labelstore import FerKD
from labelstore.errors import (
    DiscardedViewsWarning,
    LabelError,
    LabelStoreError,
    MismatchError,
    NotFoundError,
    PartialDataWarning,
    ReplayWarning,
    SourceError,
    UsageError,
)
from labelstore.images.decoding import to_rgb
from labelstore.images.reduced_jpeg import reduction_for
from labelstore.images.sources.folder import FolderSource
from labelstore.labels.actions import Action
from labelstore.torch import (
    Show,
    SoftLabelDataset,
    TorchSoftLabels,
    ViewSampler,
    collate_views,
    normalize,
    validation_folder,
)
from tests.support.ranks import end_workers
from tests.support.stores import distributions, top_of
from tests.support.training import (
    NUM_VIEWS,
    SIZE,
    TEACHER,
    labels,
    make_photos,
    make_store,
    replay,
    upright,
)

SHOWS = [Show(0, (0, 9)), Show(11, (4,)), Show(5, (3, 1, 2)), Show(13, (7, 8)), Show(8, (0,))]


class Items:
    """A data set of one's own: items by position, no paths."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index], 0


def expected_pixels(work, store, show):
    """(m, height, width, 3) uint8."""
    photo = upright(work.photos / store.keys[show.image])
    geometry = store.views(show.image, np.array(show.views))
    return np.stack(
        [replay(photo, box, flip) for box, flip in zip(geometry.box, geometry.flip, strict=True)]
    )


def test_pixels_are_those_that_pillow_makes_of_the_upright_photo(work, store, photos):
    data = SoftLabelDataset(photos, store, normalize=None)
    for image in range(store.num_images):
        show = Show(image, (0, 3, 9))
        pixels, _ = data[show]
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (3, 3, *SIZE)
        expected = expected_pixels(work, store, show).transpose(0, 3, 1, 2)
        assert np.array_equal(pixels.numpy(), expected), store.keys[image]


def test_normalised_pixels_are_the_teachers_to_the_last_bit(work, store, photos):
    show = SHOWS[2]
    bytes_ = torch.from_numpy(expected_pixels(work, store, show)).permute(0, 3, 1, 2)
    pixels, _ = SoftLabelDataset(photos, store)[show]
    assert torch.equal(pixels, normalize(bytes_, TEACHER["mean"], TEACHER["std"]))
    slow = (bytes_.double() / 255 - torch.tensor(TEACHER["mean"]).view(3, 1, 1).double()) / (
        torch.tensor(TEACHER["std"]).view(3, 1, 1).double()
    )
    torch.testing.assert_close(pixels.double(), slow, rtol=1e-5, atol=1e-6)
    own, _ = SoftLabelDataset(photos, store, normalize=((0.0,) * 3, (1.0,) * 3))[show]
    torch.testing.assert_close(own, bytes_.float() / 255)


def test_size_and_interpolation_may_be_the_students_own(work, store, photos):
    data = SoftLabelDataset(photos, store, size=16, interpolation="bilinear", normalize=None)
    pixels, _ = data[Show(4, (2,))]
    geometry = store.views(4, 2)
    photo = upright(work.photos / store.keys[4])
    slow = replay(photo, geometry.box, geometry.flip, (16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(pixels[0].numpy(), slow.transpose(2, 0, 1))


def test_a_transform_gets_each_view_as_a_picture(work, store, photos):
    seen = []

    def transform(view):
        seen.append(np.asarray(view))
        return T.pil_to_tensor(view).float() + 1

    pixels, _ = SoftLabelDataset(photos, store, transform=transform)[SHOWS[0]]
    expected = expected_pixels(work, store, SHOWS[0])
    assert np.array_equal(np.stack(seen), expected)
    assert np.array_equal(pixels.numpy(), expected.transpose(0, 3, 1, 2) + 1.0)
    with pytest.raises(UsageError, match=r"transform made a Image.*expected a tensor"):
        SoftLabelDataset(photos, store, transform=lambda view: view)[SHOWS[0]]


@pytest.mark.parametrize("tail", ["uniform", "none"])
@pytest.mark.parametrize("label_type", [None, "hard", "smoothing"])
def test_labels_are_those_of_the_image_and_the_view(store, photos, tail, label_type):
    data = SoftLabelDataset(photos, store, tail=tail, label_type=label_type)
    for show, (_, target) in zip(SHOWS, data.__getitems__(SHOWS), strict=True):
        soft = store.read(show.image, np.array(show.views)).as_type(label_type or "top-k", tail)
        np.testing.assert_array_equal(target.dense(), soft.dense())
        assert target.image.tolist() == [show.image] * len(show.views)
        assert target.view.tolist() == list(show.views)
        assert target.target.tolist() == [store.targets[show.image]] * len(show.views)
        assert target.weight is None
        assert target.action is None


def test_labels_are_the_ones_that_were_written(work, store, photos):
    indices, probs = labels(store.num_images, seed=0)
    _, target = SoftLabelDataset(photos, store)[Show(9, (6, 2))]
    for row, view in enumerate((6, 2)):
        dense = target.dense()[row].numpy()
        # Within the default quantizer's step.
        np.testing.assert_allclose(dense[indices[9, view]], probs[9, view], atol=0.01)
        rest = np.delete(dense, indices[9, view])
        np.testing.assert_allclose(rest, (1 - probs[9, view].sum()) / len(rest), atol=0.001)


def test_a_list_of_likely_classes_is_used_unless_told_otherwise(store, photos, tmp_path):
    p = distributions(store.num_images, NUM_VIEWS, store.num_classes)
    indices, probs = top_of(p, 3)
    widths, heights = store.sizes(np.arange(store.num_images))
    listed = labelstore.write(
        tmp_path / "listed.zarr",
        indices,
        probs,
        store.num_classes,
        keys=store.keys,
        targets=store.targets,
        law=store.law,
        widths=widths,
        heights=heights,
        means=p.mean(axis=1),
        prior_size=8,
        teacher=store.manifest.teacher,
    )
    topk = listed.read(3, np.arange(NUM_VIEWS))
    show = Show(3, tuple(range(NUM_VIEWS)))
    found = {
        tail: SoftLabelDataset(photos, listed, tail=tail)[show][1] for tail in (None, "uniform")
    }
    np.testing.assert_array_equal(found[None].dense(), topk.recover("image").dense())
    np.testing.assert_array_equal(found["uniform"].dense(), topk.recover("uniform").dense())
    assert float((found[None].dense() - found["uniform"].dense()).abs().max()) > 1e-3
    rule = FerKD(low=0.3, middle=0.6, top=0.9, discard="mask")
    target = SoftLabelDataset(photos, listed, ferkd=rule)[show][1]
    done = rule.apply(topk, np.full(NUM_VIEWS, listed.targets[3]), "image")
    np.testing.assert_array_equal(target.dense(), done.labels.dense())


def test_labels_at_another_temperature(work, store, photos, tmp_path):
    """Of one teacher, and of two whose stores have different temperatures."""
    _, target = SoftLabelDataset(photos, store, temperature=3.0)[SHOWS[2]]
    views = np.array(SHOWS[2].views)
    p = store.read(5, views).recover().dense().astype(np.float64)
    np.testing.assert_allclose(target.dense(), tempered(p, 3.0), atol=1e-6)
    other = make_store(
        tmp_path / "b.zarr", work.photos, list(FolderSource(work.photos).keys), temperature=2.0
    )
    both = labelstore.ensemble([store, other], weights=[1, 3])
    _, target = SoftLabelDataset(photos, both, temperature=3.0)[SHOWS[2]]
    q = other.read(other.index_of([store.keys[5]])[0], views).recover().dense().astype(np.float64)
    mean = tempered(p, 3.0) / 4 + tempered(q, 1.5) * 0.75
    np.testing.assert_allclose(target.dense(), mean, atol=1e-6)


def tempered(p, factor):
    """``p ** (1 / factor)`` over its sum."""
    raised = p ** (1 / factor)
    return raised / raised.sum(-1, keepdims=True)


@pytest.mark.parametrize("discard", ["mask", "keep", "replace"])
def test_ferkd_calibrates_and_masks(store, photos, discard):
    rule = FerKD(low=0.3, middle=0.6, top=0.9, discard=discard)
    data = SoftLabelDataset(photos, store, ferkd=rule)
    show = Show(3, tuple(range(NUM_VIEWS)), by_rule=True)
    _, target = data[show]
    topk = store.read(3, np.arange(NUM_VIEWS))
    done = rule.apply(topk, np.full(NUM_VIEWS, store.targets[3]))
    assert len(set(done.action.tolist())) == 3, "the view labels were to span all three regions"
    np.testing.assert_array_equal(target.dense(), done.labels.dense())
    np.testing.assert_array_equal(target.action, done.action)
    if discard == "mask":
        np.testing.assert_array_equal(target.weight, done.action != labelstore.Action.DISCARDED)
    else:
        assert target.weight is None


def test_a_sampler_that_knows_of_no_rule_is_told_of(store, photos):
    """It shows views that the data set's rule would have others shown for."""
    data = SoftLabelDataset(photos, store, ferkd=FerKD(low=0.2, middle=0.3, top=0.6))

    def warned(sampler):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            batches = [data.__getitems__([show]) for show in sampler]
        actions = np.concatenate([labels.action for batch in batches for _, labels in batch])
        return [each.category for each in caught], int((actions == Action.DISCARDED).sum())

    for sampler in (ViewSampler(data), ViewSampler(store, ferkd=data.ferkd)):
        assert warned(sampler)[0] == []
    # Asked for by name.
    every = warned(ViewSampler(data, NUM_VIEWS, schedule="random"))
    assert every[0] == []
    assert every[1] > 0
    # Once.
    assert warned(ViewSampler(store, NUM_VIEWS)) == ([DiscardedViewsWarning], every[1])
    assert warned(ViewSampler(store, NUM_VIEWS)) == ([], every[1])


def test_ferkd_of_a_hard_label_is_refused(store, photos):
    with pytest.raises(UsageError, match="label type is 'hard'"):
        SoftLabelDataset(photos, store, ferkd=FerKD(), label_type="hard")


def test_an_ensemble_gives_the_mean_label(work, store, photos, tmp_path):
    keys = FolderSource(work.photos).keys
    other = make_store(tmp_path / "b.zarr", work.photos, list(keys), seed=5)
    both = labelstore.ensemble([store, other], weights=[1, 3])
    pixels, target = SoftLabelDataset(photos, both)[SHOWS[2]]
    views = np.array(SHOWS[2].views)
    theirs = other.index_of([store.keys[5]])[0]
    mean = (
        store.read(5, views).recover().dense() / 4
        + other.read(theirs, views).recover().dense() * 0.75
    )
    np.testing.assert_allclose(target.dense(), mean, atol=1e-6)
    assert torch.equal(pixels, SoftLabelDataset(photos, store)[SHOWS[2]][0])


def test_every_kind_of_photo_gives_the_same_sample(work, store, photos):
    keys = list(store.keys)
    paths = [work.photos / key for key in keys]
    pictures = [upright(path) for path in paths]
    opened = []
    for path in paths:
        # As the torchvision loader does it: converted, not turned.
        with Image.open(path) as picture:
            opened.append(picture.convert("RGB"))
    kinds = {
        "folder": (FolderSource(work.photos), None),
        "bytes": (Items([path.read_bytes() for path in paths]), keys),
        "pictures": (Items(opened), keys),
        "tensors": (Items([T.pil_to_tensor(picture) for picture in pictures]), keys),
        "lists": ([[picture] for picture in pictures], keys),
        "bare": (pictures, keys),
    }
    wanted = SoftLabelDataset(photos, store).__getitems__(SHOWS)
    for name, (items, given) in kinds.items():
        found = SoftLabelDataset(items, store, keys=given).__getitems__(SHOWS)
        for (pixels, target), (other_pixels, other_target) in zip(found, wanted, strict=True):
            assert torch.equal(pixels, other_pixels), name
            assert torch.equal(target.indices, other_target.indices), name


def test_reduced_photos_give_nearly_the_same_pixels(work, store):
    keys = list(store.keys)
    source = FolderSource(work.photos)
    items = Items([source.read(source.keys.index(key)) for key in keys])
    options = {"size": (9, 8), "normalize": None}
    whole = SoftLabelDataset(source, store, **options).__getitems__(SHOWS)
    for photos, given in ((source, None), (items, keys)):
        data = SoftLabelDataset(photos, store, keys=given, decode="reduced", **options)
        found = data.__getitems__(SHOWS)
        reductions = [
            reduction_for(store.views(show.image, np.array(show.views)).box, (9, 8))
            for show in SHOWS
        ]
        assert max(reductions) > 1
        for reduction, (pixels, target), (exact, expected) in zip(
            reductions, found, whole, strict=True
        ):
            difference = (pixels.float() - exact.float()).abs()
            assert (difference.max() > 0) == (reduction > 1)
            assert difference.mean() < 4
            assert torch.equal(target.indices, expected.indices)
    # Views of their full size need their photos whole.
    large = SoftLabelDataset(source, store, decode="reduced", check_pixels="raise")
    same = SoftLabelDataset(source, store)
    for show in SHOWS:
        assert torch.equal(large[show][0], same[show][0])


def test_only_files_can_be_reduced(work, store, photos):
    data = SoftLabelDataset(photos, store, decode="reduced")
    with pytest.raises(UsageError, match=r"gives an? \w+ for 'b/photo 13.jpg', expected encoded"):
        data[Show(0, (0,))]
    with pytest.raises(UsageError, match="photos are read elsewhere"):
        SoftLabelDataset(None, store, decode="reduced")


def test_a_reduced_photo_of_another_size_is_refused(work, store, tmp_path):
    make_photos(tmp_path)
    (tmp_path / store.keys[0]).unlink()
    upright(work.photos / store.keys[0]).resize((1000, 900)).save(tmp_path / store.keys[0])
    data = SoftLabelDataset(FolderSource(tmp_path), store, decode="reduced", check_pixels=False)
    with pytest.raises(MismatchError, match="is 1000 x 900 pixels and"):
        data[Show(0, (0,))]


def test_grey_tensors_are_pictures_too(work, store):
    grey = next(n for n, key in enumerate(store.keys) if key.endswith("photo 5.jpg"))
    tensor = T.pil_to_tensor(Image.open(work.photos / store.keys[grey]))
    assert tensor.shape[0] == 1
    filler = [upright(work.photos / key) for key in store.keys]
    samples = []
    for photo in (tensor, tensor[0], filler[grey]):
        items = [*filler[:grey], photo, *filler[grey + 1 :]]
        data = SoftLabelDataset(Items(items), store, keys=store.keys, normalize=None)
        samples.append(data[Show(grey, (0, 1))][0])
    assert torch.equal(samples[0], samples[2])
    assert torch.equal(samples[1], samples[2])


def test_a_larger_data_set_in_another_order_is_aligned_by_key(work, store, photos):
    rng = np.random.default_rng(0)
    keys = [*store.keys, "extra/one.jpg", "extra/two.jpg"]
    pictures = {key: upright(work.photos / key) for key in store.keys}
    order = rng.permutation(len(keys))
    items = Items([pictures.get(keys[place], "no photo") for place in order])
    data = SoftLabelDataset(items, store, keys=[keys[place] for place in order])
    for show in SHOWS:
        assert torch.equal(data[show][0], SoftLabelDataset(photos, store)[show][0])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"keys": ["a", "b"]}, UsageError, "2 keys were given for a data set of 14"),
        ({"keys": ["a"] * 14}, UsageError, "13 keys of the data set stand in it twice"),
        (
            {"keys": [str(n) for n in range(14)]},
            MismatchError,
            "none of the 14 .*first 'b/photo 13",
        ),
        ({"interpolation": "random"}, UsageError, "interpolation is 'random'"),
        ({"size": 0}, UsageError, "size is 0"),
        ({"normalize": "imagenet"}, UsageError, "normalize is 'imagenet'"),
        ({"normalize": ((0.5,), (0.5,))}, UsageError, "three channels each"),
        ({"check_pixels": "warn"}, UsageError, "check_pixels is 'warn'"),
        ({"decode": "draft"}, UsageError, "decode is 'draft', expected \"whole\" or"),
        ({"temperature": 0.0}, UsageError, "temperature is 0.0"),
        ({"temperature": 2.0, "ferkd": FerKD()}, UsageError, "with ferkd"),
        ({"temperature": 2.0, "label_type": "hard"}, UsageError, "with label_type 'hard'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(store, photos, change, error, words):
    with pytest.raises(error, match=words):
        SoftLabelDataset(photos, store, **change)


def test_a_data_set_without_paths_needs_keys(store):
    with pytest.raises(UsageError, match="keys of a Items are unknown: pass keys="):
        SoftLabelDataset(Items([b""] * 14), store)


def test_a_data_set_that_lacks_photos_trains_on_those_it_has(work, store, tmp_path):
    make_photos(tmp_path)
    lost = [store.keys[3], *store.keys[10:]]
    for key in lost:
        (tmp_path / key).unlink()
    words = rf"lacks 5 of the 14 labelled .*\('{lost[0]}', '{lost[1]}', '{lost[2]}', \.\.\.\).* 9\."
    with pytest.warns(PartialDataWarning, match=words) as told:
        data = SoftLabelDataset(ImageFolder(tmp_path), store, check_pixels=False)
    assert told[0].filename == __file__
    sampler = ViewSampler(data, views_per_image=2)
    assert len(sampler) == 9
    shown = [target.image.tolist() for _, target in batches(data, sampler)]
    assert {store.keys[image] for batch in shown for image in batch} == set(store.keys) - set(lost)
    some = ViewSampler(data, images=[lost[0], store.keys[0]], shuffle=False)
    assert [store.keys[show.image] for show in some] == [store.keys[0]]
    with pytest.raises(NotFoundError, match="no photo of any of the 1 images"):
        ViewSampler(data, images=[lost[0]])
    with pytest.raises(MismatchError, match="has no image"):
        data[Show(3, (0,))]


def test_a_part_of_an_image_folder_needs_no_keys(work, store, photos):
    with pytest.warns(PartialDataWarning, match="lacks 11 of the 14"):
        data = SoftLabelDataset(Subset(Subset(photos, [4, 5, 6, 7]), [0, 2, 3]), store)
    names = {Path(photos.samples[row][0]).name for row in (4, 6, 7)}
    assert {Path(store.keys[show.image]).name for show in ViewSampler(data)} == names


@pytest.mark.parametrize("made_from", [".", "train", "above"])
def test_the_folder_that_keys_are_relative_to_is_looked_for(tmp_path, made_from):
    keys = make_photos(tmp_path / "above/imagenet/train", 4)
    make_photos(tmp_path / "above/imagenet/val", 2)
    prefix = {".": "train/", "train": "", "above": "imagenet/train/"}[made_from]
    root = {".": "above/imagenet", "train": "above/imagenet/train", "above": "above"}[made_from]
    store = make_store(tmp_path / "s.zarr", tmp_path / root, [prefix + key for key in keys])

    class Split(ImageFolder):
        """As torchvision's ImageNet: its root is the folder of all splits."""

        def __init__(self, root, split):
            super().__init__(root / split)
            self.root = root

    data = SoftLabelDataset(Split(tmp_path / "above/imagenet", "train"), store)
    sampler = ViewSampler(data)
    assert len(sampler) == len(batches(data, sampler)[0][0]) == 4
    plain = SoftLabelDataset(ImageFolder(tmp_path / "above/imagenet/train"), store)
    assert torch.equal(plain[Show(2, (1,))][0], data[Show(2, (1,))][0])


def test_a_photo_missing_later_is_an_error_of_its_own(work, store, tmp_path):
    make_photos(tmp_path)
    data = SoftLabelDataset(FolderSource(tmp_path), store)
    (tmp_path / store.keys[0]).write_bytes(b"\xff\xd8 cut short")
    (tmp_path / store.keys[1]).unlink()
    for image in (0, 1):
        with pytest.raises(SourceError, match=store.keys[image]):
            data[Show(image, (0,))]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_of_an_image_folder_missing_later_is_named(store, tmp_path, workers):
    make_photos(tmp_path)
    data = SoftLabelDataset(ImageFolder(tmp_path), store)
    for key in store.keys:
        (tmp_path / key).unlink()
    how = {"num_workers": 1, "multiprocessing_context": "fork"} if workers else {}
    with pytest.raises(SourceError, match=r"cannot read its image .* restore the file"):
        batches(data, ViewSampler(data), **how)


def test_images_that_cannot_be_decoded_any_more_are_named(work, store):
    file = work.photos / store.keys[0]
    closed, cut = Image.open(file), Image.open(io.BytesIO(file.read_bytes()[:-300]))
    closed.close()
    for image in (closed, cut):
        images = [image] * len(store.keys)
        data = SoftLabelDataset(images, store, keys=store.keys, check_pixels=False)
        with pytest.raises(SourceError, match=f"the image of '{store.keys[0]}' cannot be decoded"):
            data[Show(0, (0,))]


def test_a_folder_to_validate_on_that_holds_nothing_is_told(work, store, tmp_path):
    with pytest.raises(NotFoundError, match="no photos in class folders"):
        validation_folder(tmp_path / "none", store)
    with pytest.raises(SourceError, match="no photos in class folders"):
        validation_folder(tmp_path, store)
    make_photos(tmp_path / "photos")
    data = validation_folder(tmp_path / "photos", store)
    for key in store.keys:
        (tmp_path / "photos" / key).unlink()
    with pytest.raises(SourceError, match="cannot read the image"):
        data[0]


@pytest.mark.parametrize("kind", ["resized", "float", "numpy", "four channels", "text"])
def test_photos_that_were_changed_are_never_labelled(work, store, kind):
    change = {
        "resized": lambda photo: photo.resize((32, 32)),
        "float": lambda photo: T.to_dtype(T.pil_to_tensor(photo), scale=True),
        "numpy": lambda photo: np.asarray(photo, dtype=np.float32),
        "four channels": lambda photo: torch.zeros(4, 20, 20, dtype=torch.uint8),
        "text": lambda photo: "photo.jpg",
    }[kind]
    items = Items([change(upright(work.photos / key)) for key in store.keys])
    data = SoftLabelDataset(items, store, keys=store.keys)
    words = {
        "resized": r"'b/photo 13\.jpg' is 32 x 32 pixels and 151 x 51 was labelled",
        "float": r"a Tensor of type torch\.float32.*leave its transform out",
    }.get(kind, r"expected a PIL image, encoded bytes or a uint8 tensor")
    with pytest.raises(MismatchError if kind == "resized" else UsageError, match=words):
        data[Show(0, (0,))]


def test_a_transform_on_the_image_folder_is_noticed(work, store):
    folder = ImageFolder(work.photos, transform=lambda photo: photo.resize((64, 64)))
    with pytest.raises(MismatchError, match="64 x 64 pixels"):
        SoftLabelDataset(folder, store)[Show(0, (0,))]


def test_a_plain_index_is_refused(store, photos):
    data = SoftLabelDataset(photos, store)
    with pytest.raises(UsageError, match="indexed with 3, expected a Show"):
        data[3]
    with pytest.raises(UsageError, match="ViewSampler"):
        next(iter(DataLoader(data, batch_size=2, collate_fn=collate_views)))


def test_a_store_without_a_teacher_needs_size_interpolation_and_normalize(work, tmp_path, photos):
    keys = FolderSource(work.photos).keys
    indices, probs = labels(len(keys), seed=1)
    sizes = np.array([upright(work.photos / key).size for key in keys])
    law = {"law": labelstore.ViewLaw(), "widths": sizes[:, 0], "heights": sizes[:, 1]}
    own = labelstore.write(tmp_path / "own.zarr", indices, probs, 20, keys, **law)
    given = {"size": 8, "interpolation": "bilinear", "normalize": None}
    for name in given:
        rest = {other: value for other, value in given.items() if other != name}
        with pytest.raises(UsageError, match=f"pass {name}|tell its teacher's"):
            SoftLabelDataset(photos, own, **rest)
    pixels, target = SoftLabelDataset(photos, own, **given)[Show(0, (1, 2))]
    assert pixels.shape == (2, 3, 8, 8)
    assert target.target.tolist() == [-1, -1]


def test_labels_without_views_cannot_be_replayed(work, tmp_path, photos):
    keys = FolderSource(work.photos).keys
    indices, probs = labels(len(keys), seed=1)
    bare = labelstore.write(tmp_path / "bare.zarr", indices, probs, 20, keys)
    with pytest.raises(MismatchError, match="does not say which crops"):
        SoftLabelDataset(photos, bare, size=8, interpolation="bilinear", normalize=None)


def test_explicit_boxes_are_replayed_and_must_lie_inside(work, tmp_path, photos):
    keys = FolderSource(work.photos).keys
    indices, probs = labels(len(keys), seed=1)
    boxes = np.tile(np.array([3, 5, 20, 30]), (len(keys), NUM_VIEWS, 1))
    boxes[1, 0] = 0, 0, 20, 4000
    flips = np.zeros((len(keys), NUM_VIEWS), dtype=bool)
    flips[:, 1] = True
    explicit = labelstore.write(
        tmp_path / "explicit.zarr", indices, probs, 20, keys, boxes=boxes, flips=flips
    )
    data = SoftLabelDataset(
        photos, explicit, size=(24, 20), interpolation="bicubic", normalize=None
    )
    photo = upright(work.photos / keys[0])
    pixels, _ = data[Show(0, (0, 1))]
    for view in (0, 1):
        slow = replay(photo, boxes[0, view], flips[0, view])
        assert np.array_equal(pixels[view].numpy(), slow.transpose(2, 0, 1))
    with pytest.raises(MismatchError, match="reaches outside its photo"):
        data[Show(1, (0,))]


def test_the_probe_tells_when_pixels_differ(work, tmp_path, photos):
    keys = list(FolderSource(work.photos).keys)
    good = make_store(tmp_path / "good.zarr", work.photos, keys, probe=lambda digest: digest)
    assert len(good.manifest.probe) == 2
    SoftLabelDataset(photos, good, check_pixels="raise")
    SoftLabelDataset(photos, good, size=99, interpolation="bilinear", check_pixels="raise")
    bad = make_store(tmp_path / "bad.zarr", work.photos, keys, probe=lambda digest: digest[::-1])
    with pytest.warns(ReplayWarning, match=r"2 of 2 probed views .*Pillow 1\.2\.3, here is"):
        data = SoftLabelDataset(photos, bad)
    with pytest.raises(MismatchError, match="2 of 2 probed views"):
        SoftLabelDataset(photos, bad, check_pixels="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SoftLabelDataset(photos, bad, check_pixels=False)
        # A worker that unpickles the data set does not warn again.
        pickle.loads(pickle.dumps(data))


def test_a_probed_image_that_has_no_labels_is_passed_over(work, tmp_path, photos):
    keys = list(FolderSource(work.photos).keys)
    # The first one of two that are probed: its teacher had no finite logits, say.
    store = make_store(tmp_path / "s.zarr", work.photos, keys, probe=lambda d: d, broken=0)
    assert [int(store.index_of(entry["key"])) for entry in store.manifest.probe] == [0, 1]
    SoftLabelDataset(photos, store, check_pixels="raise")
    bad = make_store(tmp_path / "bad.zarr", work.photos, keys, probe=lambda d: d[::-1], broken=0)
    with pytest.raises(MismatchError, match="1 of 1 probed views"):
        SoftLabelDataset(photos, bad, check_pixels="raise")


def test_another_files_pixels_of_the_same_size_are_noticed(work, tmp_path):
    keys = list(FolderSource(work.photos).keys)
    good = make_store(tmp_path / "good.zarr", work.photos, keys, probe=lambda digest: digest)
    items = []
    for key in good.keys:
        buffer = io.BytesIO()
        upright(work.photos / key).save(buffer, "jpeg", quality=20)
        items.append(buffer.getvalue())
    with pytest.warns(ReplayWarning):
        SoftLabelDataset(Items(items), good, keys=good.keys, check_photos="size")
    with pytest.raises(MismatchError, match="is another file than the one that was labelled"):
        SoftLabelDataset(Items(items), good, keys=good.keys)


def others(folder, store):
    """Make a folder of the photos in which two are other files of the same size: their numbers."""
    keys = make_photos(folder)
    for key in keys[:2]:
        picture = Image.open(folder / key)
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / key, quality=90)
    return {store.keys.index(key) for key in keys[:2]}


class Opened:
    """PIL images as ``Image.open`` gives them, which know their file."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row):
        return Image.open(self.paths[row])


@pytest.mark.parametrize("kind", ["source", "bytes", "folder", "opened", "tensors of a folder"])
def test_another_file_of_the_same_size_is_refused(work, store, tmp_path, kind):
    changed = others(tmp_path, store)
    paths = [tmp_path / key for key in store.keys]
    turned = Lambda(lambda photo: T.pil_to_tensor(to_rgb(photo)))
    items = {
        "source": lambda: FolderSource(tmp_path),
        "bytes": lambda: Items([path.read_bytes() for path in paths]),
        "folder": lambda: ImageFolder(tmp_path),
        "opened": lambda: Opened(paths),
        "tensors of a folder": lambda: ImageFolder(tmp_path, transform=turned),
    }[kind]()
    keys = store.keys if kind in ("bytes", "opened") else None
    data = SoftLabelDataset(items, store, keys=keys)
    lenient = SoftLabelDataset(items, store, keys=keys, check_photos="size")
    for image in range(len(store.keys)):
        if image not in changed:
            data[Show(image, (0,))]
            continue
        lenient[Show(image, (0,))]
        for _ in range(2):
            with pytest.raises(
                MismatchError, match=r"is another file than .* \(digest [0-9a-f]{16}"
            ):
                data[Show(image, (0,))]


def test_photos_are_compared_in_the_workers_of_an_ensemble_too(work, store, tmp_path):
    others(tmp_path, store)
    both = labelstore.ensemble([store, store])
    assert (both.image_digests(np.arange(14)) == store.image_digests(np.arange(14))).all()
    data = SoftLabelDataset(ImageFolder(tmp_path), both)
    with pytest.raises(MismatchError, match="another file"):
        batches(data, ViewSampler(data), num_workers=1, multiprocessing_context="fork")


def test_a_file_is_read_for_its_digest_once_by_all_workers(work, store, photos):
    data = SoftLabelDataset(photos, store)
    assert not data.identity._compared.any()
    batches(data, ViewSampler(data), num_workers=2, multiprocessing_context="fork")
    assert data.identity._compared.all()
    assert not SoftLabelDataset(photos, store, check_photos="size").identity._compared.any()


def test_what_is_not_known_of_a_photo_is_not_compared(work, tmp_path, photos):
    store = make_store(tmp_path / "s.zarr", work.photos, list(FolderSource(work.photos).keys))
    bare = labelstore.write(
        tmp_path / "bare.zarr",
        np.zeros((14, 2, 1), dtype=np.int64),
        np.full((14, 2, 1), 0.5),
        num_classes=20,
        keys=store.keys,
        boxes=np.tile([0, 0, 20, 20], (14, 2, 1)),
        flips=np.zeros((14, 2), dtype=bool),
    )
    data = SoftLabelDataset(
        photos, bare, size=8, interpolation="bilinear", normalize=None, check_pixels=False
    )
    assert data[Show(0, (0, 1))][0].shape == (2, 3, 8, 8)
    with pytest.raises(UsageError, match="check_photos is 'pixels', expected one of digest, size"):
        SoftLabelDataset(photos, store, check_photos="pixels")


def test_tensors_of_photos_that_exif_turns_are_told_by_name(work, store):
    # Number 2 is turned a quarter; its pixels as they lie in the file.
    image = next(n for n, key in enumerate(store.keys) if key.endswith("photo 2.jpg"))
    lying = np.asarray(Image.open(work.photos / store.keys[image]))
    tensors = [T.pil_to_tensor(upright(work.photos / key)) for key in store.keys]
    tensors[image] = torch.from_numpy(lying.copy()).permute(2, 0, 1)
    data = SoftLabelDataset(Items(tensors), store, keys=store.keys)
    with pytest.raises(MismatchError, match=r"photo 2\.jpg' .*sides are exchanged, as of a"):
        data[Show(image, (0,))]


def batches(data, sampler, **workers):
    loader = DataLoader(data, batch_size=4, sampler=sampler, collate_fn=collate_views, **workers)
    rows = iter(loader)
    try:
        return list(rows)
    finally:
        end_workers(rows)


@pytest.mark.parametrize(
    "workers",
    [
        {"num_workers": 1, "multiprocessing_context": "fork"},
        {"num_workers": 2, "multiprocessing_context": "fork"},
        pytest.param(
            {"num_workers": 2, "multiprocessing_context": "spawn"}, marks=pytest.mark.slow
        ),
    ],
    ids=["fork 1", "fork 2", "spawn 2"],
)
def test_workers_give_the_same_epoch_as_none(store, photos, workers):
    data = SoftLabelDataset(
        photos, store, ferkd=FerKD(low=0.3, middle=0.6, top=0.9, discard="mask")
    )
    sampler = ViewSampler(data, views_per_image=2, seed=1)
    plain = batches(data, sampler)
    assert [len(target) for _, target in plain] == [8, 8, 8, 4]
    others = batches(data, sampler, **workers)
    assert len(others) == len(plain)
    for (pixels, target), (other_pixels, other_target) in zip(plain, others, strict=True):
        assert torch.equal(pixels, other_pixels)
        for name in ("base", "indices", "weights", "weight", "target", "action", "image", "view"):
            assert torch.equal(getattr(target, name), getattr(other_target, name)), name


def test_errors_cross_the_border_of_a_worker_with_their_kind(store, work):
    folder = ImageFolder(work.photos, transform=lambda photo: photo.resize((64, 64)))
    data = SoftLabelDataset(folder, store)
    with pytest.raises(LabelStoreError, match="64 x 64 pixels") as caught:
        batches(data, ViewSampler(data), num_workers=1, multiprocessing_context="fork")
    assert caught.value.kind == "mismatch"


def test_a_batch_keeps_the_views_of_an_image_side_by_side(store, photos):
    data = SoftLabelDataset(photos, store)
    pixels, target = collate_views(data.__getitems__(SHOWS))
    assert pixels.shape == (9, 3, *SIZE)
    assert target.image.tolist() == [0, 0, 11, 5, 5, 5, 13, 13, 8]
    assert target.view.tolist() == [0, 9, 4, 3, 1, 2, 7, 8, 0]
    for row in range(9):
        single = Show(int(target.image[row]), (int(target.view[row]),))
        alone, label = data[single]
        assert torch.equal(pixels[row], alone[0])
        assert torch.equal(target.dense()[row], label.dense()[0])
    with pytest.raises(UsageError, match="no samples"):
        collate_views([])


def test_a_photo_is_decoded_once_for_all_its_views_of_a_batch(store, photos):
    class Counted:
        root, samples = photos.root, photos.samples

        def __init__(self):
            self.decoded = []

        def __len__(self):
            return len(photos)

        def __getitem__(self, row):
            self.decoded.append(row)
            return photos[row]

    counted = Counted()
    data = SoftLabelDataset(counted, store, check_pixels=False)
    sampler = ViewSampler(data, views_per_image=5)
    loader = DataLoader(data, batch_size=4, sampler=sampler, collate_fn=collate_views)
    assert sum(len(target) for _, target in loader) == 14 * 5
    assert sorted(counted.decoded) == list(range(14))


def test_labels_of_two_kinds_make_no_batch():
    def sample(classes, **given):
        topk = labelstore.TopK(np.array([[1, 2]]), np.array([[0.6, 0.2]]), classes)
        return torch.zeros(1, 3, 2, 2), TorchSoftLabels.from_numpy(topk.recover("uniform"), **given)

    for pair in (
        (sample(10), sample(1000)),
        (sample(10), sample(10, weight=[0.0])),
        (sample(10, weight=[0.0]), sample(10)),
    ):
        with pytest.raises(LabelError, match="of one kind"):
            collate_views(pair)


def test_keys_that_differ_in_their_normal_form_alone_are_told(work, store, tmp_path):
    """As where macOS wrote one copy of the photos, and another system the other."""
    composed = "caf\N{LATIN SMALL LETTER E WITH ACUTE} 0.jpg"
    encoded = (work.photos / store.keys[0]).read_bytes()
    for folder, name in (("a", composed), ("b", unicodedata.normalize("NFD", composed))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(encoded)
    own = make_store(tmp_path / "s.zarr", tmp_path / "a", [composed])
    assert len(SoftLabelDataset(FolderSource(tmp_path / "a"), own)) == 1
    with pytest.raises(MismatchError, match="Unicode's NFC and NFD"):
        SoftLabelDataset(FolderSource(tmp_path / "b"), own)


def test_a_batch_is_made_where_it_is_read(store, photos):
    data = SoftLabelDataset(photos, store)
    samples = data.__getitems__(SHOWS)
    batch, _ = collate_views(samples)
    assert batch.data_ptr() == samples[0][0].data_ptr()
    assert torch.equal(batch, torch.cat([data[show][0] for show in SHOWS]))
    # Other orders, parts and mixtures are joined anew.
    others = data.__getitems__(SHOWS[:2])
    for some in (samples[::-1], samples[1:], samples[:-1], [samples[0], samples[0]], others):
        joined, _ = collate_views([*some, *others])
        assert torch.equal(joined, torch.cat([sample[0] for sample in [*some, *others]]))
    # From a worker, in memory that both see.
    loader = DataLoader(
        data,
        batch_sampler=[SHOWS],
        collate_fn=collate_views,
        num_workers=1,
        multiprocessing_context="fork",
    )
    (sent,) = [pixels for pixels, _ in loader]
    assert sent.is_shared()
    assert torch.equal(sent, batch)
