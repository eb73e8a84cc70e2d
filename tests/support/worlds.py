"""A small world of photos, teachers and stores, and a model of it: what each store is to say."""

from __future__ import annotations

import dataclasses
import functools
import io
import shutil

import numpy as np
import torch
from PIL import Image

import labelstore
from labelstore.errors import LabelStoreError, MismatchError, UsageError
from labelstore.format.settings import StoreSettings
from labelstore.images.preprocessing import Preprocessing
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.lifecycle.copy import copy
from labelstore.operations.lifecycle.gc import gc
from labelstore.operations.lifecycle.grow import grow
from labelstore.operations.lifecycle.parts import join_parts
from labelstore.operations.lifecycle.prune import prune
from labelstore.operations.lifecycle.subset import ViewChoice, subset
from labelstore.operations.merge import merge
from labelstore.operations.recode import recode
from labelstore.operations.repair import repair
from labelstore.operations.verify import verify
from labelstore.producer.generation import generate
from labelstore.producer.settings import LabelSettings, RunOptions
from labelstore.storage import swaps
from labelstore.store.lineage import lineage
from labelstore.teachers.teacher import Teacher
from labelstore.testing.faults import trip

CLASSES, MOST_VIEWS, PHOTOS = 12, 7, 8

BROKEN = "3.png"
"""The photo whose first version cannot be decoded."""


class Patches(torch.nn.Module):
    """The mean colours of 2 x 2 patches through small whole numbers: exact, in any company."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randint(-3, 4, (CLASSES, CLASSES), generator=generator)
        self.register_buffer("weight", weight.float())

    def forward(self, x):
        means = torch.nn.functional.avg_pool2d(x.double(), 4).flatten(1)
        return ((means * 64).round() / 64 @ self.weight.double()).float()


@functools.cache
def teacher(seed):
    """One of the world's teachers."""
    preprocessing = Preprocessing((8, 8), (0.5,) * 3, (0.25,) * 3, "bilinear")
    return Teacher(Patches(seed), preprocessing, spec=f"python:patches:of_{seed}", device="cpu")


def photo(number, version):
    """The bytes of a photo's file."""
    key = f"{number}.png"
    if key == BROKEN and not version:
        return b"no image"
    rng = np.random.default_rng([number, version])
    size = rng.integers(12, 30, 2)
    stream = io.BytesIO()
    pixels = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size.tolist()).save(stream, "png")
    return stream.getvalue()


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a store is to say of an image."""

    target: int
    version: int
    """Of its photo."""
    labels: tuple[tuple[bytes, ...], ...] | None
    """Of each view its crop, classes, probabilities, and recovered label; None without labels."""
    lists: tuple[bytes, ...] | None
    """Its likely classes."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """A store, and the model of it: what it is to say of each image, in order."""

    path: object
    model: dict[str, Entry]
    num_views: int
    settings: StoreSettings
    teachers: tuple[int, ...]
    """Whose labels they are; a mean where there are several."""
    grows: bool
    """Whether it is a teacher's, and its views are the first ones."""


def entries_of(path, versions):
    """key -> Entry: all that a store says."""
    store = labelstore.open(path)
    views, entries = np.arange(store.num_views), {}
    labelled = store.labelled()
    for row, key in enumerate(store.keys):
        target, labels, lists = int(store.targets[row]), None, None
        if labelled[row]:
            topk, crops = store.read(row, views), store.views(row, views)
            dense = topk.recover().dense()
            labels = tuple(
                (
                    crops.box[view].tobytes() + bytes([bool(crops.flip[view])]),
                    topk[view].indices.tobytes(),
                    topk[view].probs.tobytes(),
                    dense[view].tobytes(),
                )
                for view in views
            )
            if topk.prior is not None:
                prior = topk.prior
                lists = tuple(
                    np.broadcast_to(values, (store.num_views, *values.shape[1:]))[0].tobytes()
                    for values in (prior.classes, prior.probs, prior.power)
                )
        entries[key] = Entry(target, versions[key], labels, lists)
    return entries


class World:
    """Does operations one after the other, and compares what they leave with the model.

    Args:
        folder: an empty one. draw: a ``random.Random``. suffix: of the first store.
        truth: of ``truth_of``.
    """

    def __init__(self, folder, draw, suffix, truth):
        self.folder, self.draw, self.suffix, self.truth = folder, draw, suffix, truth
        self.count = self.interrupted = 0
        self.done = []

    # What there is

    def path(self, suffix=None):
        """A new one."""
        self.count += 1
        return self.folder / f"s{self.count}.{suffix or self.suffix}"

    def photos(self, versions):
        """A folder with some photos."""
        self.count += 1
        folder = self.folder / f"photos{self.count}"
        folder.mkdir()
        for key, version in versions.items():
            (folder / key).write_bytes(photo(int(key[0]), version))
        return FolderSource(folder)

    def attempt(self, action, path):
        """Do it, perhaps on a full disk first; then once more, with what that left or without."""
        if self.draw.random() < 0.3:
            with trip(self.draw.randint(1, 90), "no-space"):
                try:
                    return action()
                except (LabelStoreError, OSError) as error:
                    # The latter where the versions of installed packages are read.
                    refusal = str(error)
            assert "No space left" in refusal
            self.interrupted += 1
            if self.draw.random() < 0.5 and (path.exists() or swaps.left_beside(path)):
                gc([path])
        return action()

    def some(self, keys, least=1):
        """Some of them, in their order."""
        keys = list(keys)
        chosen = set(self.draw.sample(keys, self.draw.randint(min(least, len(keys)), len(keys))))
        return [key for key in keys if key in chosen]

    # What a teacher says

    def check_labels(self, stored, first=0, keys=None):
        """Compare views of images, of all when None, with what the teacher says of them."""
        store = labelstore.open(stored.path)
        plain = not stored.settings.prior_size and stored.settings.top_p is None
        (seed,) = stored.teachers
        for key in stored.model if keys is None else keys:
            row = int(store.index_of(key))
            truth = self.truth[seed, stored.model[key].version, stored.settings.quantizer]
            place = int(truth.index_of(key))
            assert store.labelled()[row] == truth.labelled()[place]
            if not store.labelled()[row]:
                continue
            views = np.arange(first, stored.num_views)
            crops, expected = store.views(row, views), truth.views(place, views)
            assert np.array_equal(crops.box, expected.box)
            assert np.array_equal(crops.flip, expected.flip)
            ours, theirs = store.read(row, views), truth.read(place, views)
            probs, classes = (values[:, : store.k] for values in (theirs.probs, theirs.indices))
            # An image's list, and the mass that is stored, decide how many classes are left out.
            there = ours.probs > 0
            assert there[:, 0].all()
            assert np.array_equal(ours.probs[there], probs[there])
            assert np.array_equal(ours.indices[there], classes[there])
            if plain:
                assert np.array_equal(there, probs > 0)

    def generated(self, seed, versions, num_views, settings, path=None):
        """A teacher's store of photos."""
        path, source = path or self.path(), self.photos(versions)
        targets = np.array([self.draw.randrange(-1, CLASSES) for _ in versions], dtype=np.int32)
        options = RunOptions(batch_size=self.draw.randint(2, 9), on_error="skip")

        def make():
            generate(
                source,
                targets,
                teacher(seed),
                path,
                LabelSettings(num_views, settings),
                options=options,
            )

        self.attempt(make, path)
        model = entries_of(path, versions)
        assert [entry.target for entry in model.values()] == targets.tolist()
        stored = Stored(path, model, num_views, settings, (seed,), True)
        self.check_labels(stored)
        return stored

    # Operations: each gives the new store, with the model that follows from the old one's

    def begin(self):
        """The first store."""
        keys = self.some([f"{number}.png" for number in range(PHOTOS)], 2)
        settings = StoreSettings(
            k=self.draw.choice([1, 3, 4]),
            quantizer=self.draw.choice(["ratio16", "u8", "fp32"]),
            prior_size=self.draw.choice([0, 5]),
            top_p=self.draw.choice([None, 0.9]),
            block_images=self.draw.randint(1, 4),
            group_views=self.draw.randint(1, 3),
        )
        versions = {key: self.draw.randrange(2) for key in keys}
        return self.generated(0, versions, self.draw.randint(1, 3), settings)

    def grow(self, old):
        """More views, more photos, changed and missing ones."""
        versions = {key: entry.version for key, entry in old.model.items()}
        num_views = self.draw.randint(old.num_views, MOST_VIEWS)
        lacking = [f"{n}.png" for n in range(PHOTOS) if f"{n}.png" not in versions]
        now = {key: self.draw.choice([v, v, v, 1 - v]) for key, v in versions.items()}
        now |= {key: self.draw.randrange(2) for key in self.some(lacking, 0)}
        changed = {key for key, version in versions.items() if now[key] != version}
        relabel = self.draw.random() < 0.7
        if num_views == old.num_views and self.draw.random() < 0.5:
            gone = self.some(set(versions) - changed, 0)
            # A folder without a photo is refused.
            now = {key: v for key, v in now.items() if key not in gone} or now
        source, path = self.photos(now), self.path(old.path.suffix[1:])
        targets = None
        if self.draw.random() < 0.5:
            known = {key: entry.target for key, entry in old.model.items()}
            targets = np.array(
                [known.get(key, self.draw.randrange(CLASSES)) for key in source.keys], np.int32
            )
        options = RunOptions(batch_size=self.draw.randint(2, 9), on_error="skip")

        def make():
            grow(
                old.path,
                source,
                teacher(old.teachers[0]),
                path,
                num_views=num_views,
                targets=targets,
                relabel_changed=relabel,
                options=options,
            )

        broken = {key for key, entry in old.model.items() if entry.labels is None}
        wanted = (
            num_views > old.num_views and set(versions) - broken,
            set(now) - set(versions),
            relabel and changed,
        )
        refusal = (
            (MismatchError if not old.grows else None)
            or (MismatchError if changed - broken and not relabel else None)
            or (UsageError if not any(wanted) else None)
        )
        if refusal is not None:
            try:
                make()
            except refusal:
                assert not path.exists()
                return old
            raise AssertionError(f"growth was not refused: {old}")
        self.attempt(make, path)
        keys = [*versions, *sorted(set(now) - set(versions))]
        now = (
            versions
            | ({key: now[key] for key in now} if relabel else {})
            | {key: now[key] for key in keys if key not in versions}
        )
        told = entries_of(path, now)
        assert list(told) == keys
        grown = dataclasses.replace(old, path=path, num_views=num_views, model=told)
        self.check_labels(grown, old.num_views)
        known = {} if targets is None else dict(zip(source.keys, targets.tolist(), strict=True))
        for key, entry in told.items():
            before = old.model.get(key)
            if before is None:
                assert entry.target == known.get(key, -1)
                continue
            assert entry.target == before.target
            if key in changed and relabel:
                continue
            if before.labels is None:
                assert entry.labels is None
            else:
                assert entry.labels[: old.num_views] == before.labels
                assert entry.lists == before.lists
        self.check_labels(grown, keys=[key for key in told if key not in old.model])
        self.check_labels(grown, keys=changed & set(told) if relabel else ())
        return grown

    def images(self, old):
        """Some of the images."""
        path, chosen = self.path(old.path.suffix[1:]), self.some(old.model)
        if self.draw.random() < 0.5:
            self.attempt(lambda: subset(old.path, path, images=chosen), path)
        else:
            self.attempt(lambda: copy(old.path, path, images=chosen), path)
        return dataclasses.replace(old, path=path, model={key: old.model[key] for key in chosen})

    def first_views(self, old):
        """The first views of all images, as a copy or in the store's place."""
        count, path = self.draw.randint(1, old.num_views), self.path(old.path.suffix[1:])
        how = self.draw.choice(["copy", "subset", "prune"])
        if how == "prune":
            shutil.copytree(old.path, path)
            self.attempt(lambda: prune(path, views=range(count)), path)
        else:
            make = copy if how == "copy" else subset
            self.attempt(lambda: make(old.path, path, views=range(count)), path)
        return _with_views(old, path, range(count))

    def other_views(self, old):
        """Views whose numbers do not tell them any more."""
        if old.num_views < 2:
            return self.first_views(old)
        first, path = self.draw.randint(1, old.num_views - 1), self.path(old.path.suffix[1:])
        views = range(first, self.draw.randint(first + 1, old.num_views))
        self.attempt(lambda: subset(old.path, path, views=views), path)
        return dataclasses.replace(_with_views(old, path, views), grows=False)

    def each_its_own(self, old):
        """Views of each image's own."""
        count, path = self.draw.randint(1, old.num_views), self.path(old.path.suffix[1:])
        choice = ViewChoice(count, self.draw.choice(["random", "surgical"]), self.draw.randrange(9))
        self.attempt(lambda: subset(old.path, path, views=choice), path)
        versions = {key: entry.version for key, entry in old.model.items()}
        told = entries_of(path, versions)
        for key, entry in old.model.items():
            if entry.labels is None:
                assert told[key] == entry
                continue
            assert dataclasses.replace(told[key], labels=entry.labels) == entry
            assert len(told[key].labels) == count
            # In their order; two views may be the same crop with the same label.
            left = iter(entry.labels)
            assert all(label in left for label in told[key].labels)
        return dataclasses.replace(old, path=path, model=told, num_views=count, grows=False)

    def parts(self, old):
        """Two parts that are joined again, each perhaps grown by itself before."""
        if len(old.model) < 2:
            return self.images(old)
        first = self.draw.sample(list(old.model), self.draw.randint(1, len(old.model) - 1))
        halves = []
        for chosen in (first, [key for key in old.model if key not in first]):
            path = self.path(old.path.suffix[1:])
            subset(old.path, path, images=chosen)
            model = {key: entry for key, entry in old.model.items() if key in chosen}
            halves.append(dataclasses.replace(old, path=path, model=model))
        broken = any(entry.labels is None for entry in old.model.values())
        if old.grows and not broken and old.num_views < MOST_VIEWS and self.draw.random() < 0.7:
            count = self.draw.randint(old.num_views + 1, MOST_VIEWS)
            halves = [self.with_more_views(half, count) for half in halves]
        path = self.path(old.path.suffix[1:])
        self.attempt(lambda: join_parts([half.path for half in halves], path), path)
        return dataclasses.replace(halves[0], path=path, model=halves[0].model | halves[1].model)

    def with_more_views(self, old, num_views):
        """Grown by views alone."""
        path = self.path(old.path.suffix[1:])
        versions = {key: entry.version for key, entry in old.model.items()}
        source = self.photos(versions)
        options = RunOptions(on_error="skip")
        seed = old.teachers[0]
        self.attempt(
            lambda: grow(
                old.path, source, teacher(seed), path, num_views=num_views, options=options
            ),
            path,
        )
        told = entries_of(path, versions)
        for key, entry in old.model.items():
            kept = entry.labels and told[key].labels[: old.num_views]
            assert dataclasses.replace(told[key], labels=kept) == entry
        grown = dataclasses.replace(old, path=path, num_views=num_views, model=told)
        self.check_labels(grown, old.num_views)
        return grown

    def whole(self, old):
        """A copy, or one of another layout or back end."""
        how = self.draw.choice(["copy", "layout", "other"])
        suffix = old.path.suffix[1:]
        if how == "other":
            suffix = "parquet" if suffix == "zarr" else "zarr"
        path = self.path(suffix)
        if how == "copy":
            self.attempt(lambda: copy(old.path, path), path)
            assert labelstore.open(path).id == labelstore.open(old.path).id
        else:
            layout = {
                "block_images": self.draw.randint(1, 5),
                "group_views": self.draw.randint(1, old.num_views),
            }
            self.attempt(lambda: recode(old.path, path, **layout), path)
        return dataclasses.replace(old, path=path)

    def repaired(self, old):
        """A damaged block, made anew by its teacher."""
        if not old.grows:
            return self.whole(old)
        path = self.path(old.path.suffix[1:])
        shutil.copytree(old.path, path)
        store = labelstore.open(path)
        block = self.draw.randrange(store.manifest.num_blocks)
        spoil(path, block, self.draw)
        rows = store.manifest.block_slice(block)
        damaged = store.keys[rows]
        versions = {key: entry.version for key, entry in old.model.items()}
        source = self.photos(versions)
        options = RunOptions(batch_size=self.draw.randint(2, 9), on_error="skip")
        self.attempt(lambda: repair(path, source, teacher(old.teachers[0]), options=options), path)
        told = entries_of(path, versions)
        mended = dataclasses.replace(old, path=path, model=told)
        self.check_labels(mended, keys=damaged)
        steps = lineage(store.manifest)
        as_grown = all(
            step["operation"] == "grow" and not step["settings"]["relabelled"] for step in steps
        )
        for key, entry in old.model.items():
            if key in damaged and not as_grown:
                # Which views its list is of is not known any more.
                entry = dataclasses.replace(told[key], target=entry.target, version=entry.version)
            assert told[key] == entry
        return mended

    def targets(self, old):
        """Another ground truth."""
        path = self.path(old.path.suffix[1:])
        targets = [self.draw.randrange(-1, CLASSES) for _ in old.model]
        self.attempt(lambda: recode(old.path, path, targets=np.array(targets)), path)
        pairs = zip(old.model.items(), targets, strict=True)
        model = {key: dataclasses.replace(entry, target=to) for (key, entry), to in pairs}
        return dataclasses.replace(old, path=path, model=model)

    def mean(self, old):
        """The mean with the other teacher's labels of the same views."""
        if not old.grows:
            return self.whole(old)
        versions = {key: entry.version for key, entry in old.model.items()}
        settings = dataclasses.replace(old.settings, prior_size=self.draw.choice([0, 5]))
        other = self.generated(1, dict(sorted(versions.items())), old.num_views, settings)
        truth = [old.model[key].target for key in sorted(versions)]
        path = self.path()
        amended = self.path(other.path.suffix[1:])
        recode(other.path, amended, targets=np.array(truth))
        members = [old.path, amended]
        how = {"k": CLASSES, "quantizer": "fp32", "prior_size": 0, "weights": [1.0, 3.0]}
        self.attempt(lambda: merge(members, path, **how), path)
        told = entries_of(path, versions)
        assert list(told) == list(old.model)
        for key, entry in old.model.items():
            assert told[key].target == entry.target
            if entry.labels is None:
                assert told[key].labels is None
                continue
            for view, label in enumerate(entry.labels):
                mean = _dense(label) / 4 + 3 * _dense(other.model[key].labels[view]) / 4
                crop, classes, probs, _ = told[key].labels[view]
                assert crop == label[0]
                held = np.frombuffer(classes, np.int32)[np.frombuffer(probs, np.float32) > 0]
                np.testing.assert_allclose(
                    _dense(told[key].labels[view])[held], mean[held], atol=2e-6
                )
                # Those left out are no larger than what all classes of the tail have.
                assert np.delete(mean, held).max(initial=0) <= mean[held].min() + 2e-6
        settings = StoreSettings(k=CLASSES, quantizer="fp32", prior_size=0)
        return Stored(path, told, old.num_views, settings, (0, 1), False)

    # Any sequence

    OPERATIONS = (
        *("grow", "grow", "grow", "images", "first_views", "other_views", "each_its_own"),
        *("parts", "parts", "whole", "targets", "mean", "repaired"),
    )

    def go(self, steps):
        """Do some operations from the beginning on."""
        stored, kept = self.begin(), []
        for _ in range(steps):
            operation = self.draw.choice(self.OPERATIONS)
            self.done.append(operation)
            new = getattr(self, operation)(stored)
            self.check(new)
            kept.append(stored)
            # Long after the views lost their numbers nothing grows any more: begin elsewhere.
            stored = new if new.grows or self.draw.random() < 0.6 else self.draw.choice(kept)
        for stored in kept:
            self.check(stored)

    def check(self, stored):
        """A store says what its model says, and where it comes from."""
        versions = {key: entry.version for key, entry in stored.model.items()}
        assert list(labelstore.open(stored.path).keys) == list(stored.model)
        assert entries_of(stored.path, versions) == stored.model
        assert verify(stored.path).whole
        store = labelstore.open(stored.path)
        assert {leftover.kind for leftover in gc([stored.path]).leftovers} <= {"lock"}
        steps = lineage(store.manifest)
        assert all(step["settings"]["labelstore"] == labelstore.__version__ for step in steps)
        # Probes are of views that it has.
        for entry in store.manifest.probe:
            assert entry["key"] in stored.model
            assert entry["view"] < stored.num_views


def _dense(label):
    return np.frombuffer(label[3], dtype=np.float32)


def _with_views(old, path, views):
    model = {
        key: dataclasses.replace(
            entry, labels=entry.labels and tuple(entry.labels[view] for view in views)
        )
        for key, entry in old.model.items()
    }
    return dataclasses.replace(old, path=path, model=model, num_views=len(views))


def spoil(path, block, draw):
    """Damage an object of a block, or withdraw its commit."""
    is_zarr = path.suffix == ".zarr"
    shards = [f for f in sorted((path / "labels").glob(f"*/c/{block}/**/0")) if f.is_file()]
    files = shards if is_zarr else [path / "labels" / f"{block:06}.parquet"]
    if files:
        file = draw.choice(files)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 255
        file.write_bytes(data)
    # A block of photos that could not be read has no object of labels.
    if not files or draw.random() < 0.3:
        (path / (f"commits/c/{block}/0" if is_zarr else f"commits/{block:06}.npy")).unlink()


def truth_of(folder):
    """(teacher, version, quantizer) -> a store of all photos and views, cut and stored plainly."""
    truth = {}
    for version in range(2):
        source = folder / f"photos{version}"
        source.mkdir()
        for number in range(PHOTOS):
            (source / f"{number}.png").write_bytes(photo(number, version))
        for seed in range(2):
            for quantizer in ("ratio16", "u8", "fp32"):
                path = folder / f"{seed}{version}{quantizer}.zarr"
                settings = StoreSettings(k=4, quantizer=quantizer, prior_size=0)
                generate(
                    FolderSource(source),
                    np.full(PHOTOS, -1, np.int32),
                    teacher(seed),
                    path,
                    LabelSettings(MOST_VIEWS, settings),
                    options=RunOptions(on_error="skip"),
                )
                truth[seed, version, quantizer] = labelstore.open(path)
    return truth
