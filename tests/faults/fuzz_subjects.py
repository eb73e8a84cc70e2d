"""What is fuzzed: small stores and sources, how a file of each may be changed, and its reading."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

import labelstore
from labelstore.errors import LabelStoreError, UsageError
from labelstore.format.arrays import (
    array_digest,
    images_digest,
    view_arrays,
    view_columns,
)
from labelstore.format.commits import commit_row
from labelstore.format.unit_blocks import UnitBlocks
from labelstore.images.sources.choose import open_source
from labelstore.operations.materialize import materialize
from labelstore.store.backends.parquet.tables import file_of, label_table, measured_table
from tests.faults import mutations
from tests.support.page_headers import pages_of
from tests.support.stores import make_planned, read_everything, written

SIZE = {"images": 4, "views": 3, "classes": 8, "block_images": 2, "group_views": 2}
BOXES = {
    "law": None,
    "boxes": np.arange(4 * 3 * 4).reshape(4, 3, 4),
    "flips": np.arange(12).reshape(4, 3) % 2 == 1,
}
LISTS = {"prior_size": 3}

STORES = {
    "list-ratio16.zarr": (make_planned, {"k": 3, **LISTS}),
    "list-ratio32.zarr": (make_planned, {"k": 4, "quantizer": "ratio32", "top_p": 0.7, **LISTS}),
    "list-fp32.zarr": (make_planned, {"k": 2, "quantizer": "fp32", **LISTS}),
    "u8.zarr": (written, {"k": 2, "quantizer": "u8"}),
    "u16.zarr": (written, {"k": 3, "quantizer": "u16"}),
    "one-class.zarr": (written, {"k": 1, "quantizer": "ratio16"}),
    # So many chunks of a shard are decoded in one call.
    "many-chunks.zarr": (written, {"k": 2, "quantizer": "u16", "views": 9, "group_views": 1}),
    "boxes-fp16.zarr": (written, {"k": 2, "quantizer": "fp16", **BOXES}),
    "list-ratio16.parquet": (make_planned, {"k": 3, **LISTS}),
    "list-u8.parquet": (make_planned, {"k": 4, "quantizer": "u8", "top_p": 0.7, **LISTS}),
    "boxes-fp32.parquet": (written, {"k": 2, "quantizer": "fp32", **BOXES}),
    "one-class.parquet": (written, {"k": 1, "quantizer": "ratio16"}),
    "list-ratio16.units.zarr": (make_planned, {"k": 3, "unit_images": 1, **LISTS}),
    "boxes-fp16.units.zarr": (written, {"k": 2, "quantizer": "fp16", "layout": "units", **BOXES}),
}


_WEIGHTS = {"labels": 8.0, "commits": 4.0, "lists": 1.5, "measured": 1.5, "table": 0.5, "all": 0.5}
"""How often files of each kind are changed."""

_MEASURED = ("images/size", "images/digest", "images/status")


class Change:
    """One file that is to be something else."""

    def __init__(self, root, name, how, data=None, also=(), signed=False, put=None):
        self.name, self.how, self.signed = name, how, signed
        self._root, self._put = root, put
        self._data = {name: data, **dict(also)}
        self._whole = {part: (root / part).read_bytes() for part in self._data}

    def apply(self):
        """Change the file."""
        for name, data in self._data.items():
            file = self._root / name
            if self._put is not None:
                file.unlink()
                self._put(file)
            else:
                file.write_bytes(data)

    def restore(self):
        """Put back what was there."""
        for name, data in self._whole.items():
            file = self._root / name
            state = file.lstat() if os.path.lexists(file) else None
            if state is not None and stat.S_ISDIR(state.st_mode):
                file.rmdir()
            elif state is not None and not stat.S_ISREG(state.st_mode):
                file.unlink()
            file.write_bytes(data)


def special(rng):
    """Something else than a file, under its name."""
    return rng.choice(
        (
            ("nothing", lambda file: None),
            ("a pipe", os.mkfifo),
            ("a folder", os.mkdir),
            ("a link to zeros", lambda file: file.symlink_to("/dev/zero")),
            ("a link to itself", lambda file: file.symlink_to(file)),
        )
    )


class Subject:
    """A folder of files, how they are changed, and how they are read."""

    weight = 1.0

    def __init__(self, root):
        self.root, self.name = root, root.name
        self.files = {
            file.relative_to(root).as_posix(): file.read_bytes()
            for file in sorted(root.rglob("*"))
            if file.is_file() and file.name != ".lock"
        }
        self._known = {}

    def change(self, rng):
        """The change of a seed."""
        name = self.choose(rng)
        if rng.random() < 0.002:
            how, put = special(rng)
            return Change(self.root, name, how, put=put)
        if rng.random() < 0.6:
            change = self.knowing(name, rng)
            if change is not None:
                return change
        return self.blindly(name, rng)

    def choose(self, rng):
        """The file to be changed."""
        return rng.choice(list(self.files))

    def blindly(self, name, rng):
        """Bytes of a file changed somehow."""
        data = mutations.blind(self.files[name], rng, list(self.files.values()))
        return Change(self.root, name, "bytes", data)

    def knowing(self, name, rng):
        """A file changed by who knows what it is; None where nobody does."""

    def same(self, read, change):
        """Whether what was read is what the unchanged files say."""
        key = self.reading_of(change)
        return [_bytes(part) for part in read] == self._known[key]

    def footer(self, name, rng):
        """The end of a Parquet file changed, where no checksum is."""
        data = self.files[name]
        size = int.from_bytes(data[-8:-4], "little") + 8
        footer = mutations.blind(data[-size:-8], rng, list(self.files.values()))
        end = len(footer).to_bytes(4, "little") + b"PAR1"
        return Change(self.root, name, "a footer", data[:-size] + footer + end)

    def page(self, name, rng):
        """A page header of a Parquet file changed, which no checksum covers; the rest is whole."""
        data = self.files[name]
        page = rng.choice(pages_of(data))
        mutations.other_numbers(page.fields, rng)
        try:
            changed = page.in_place(data)
        except ValueError:
            # It would be longer.
            return self.footer(name, rng)
        return Change(self.root, name, "a page header", changed)

    def table(self, name, rng):
        """A Parquet file changed where no checksum is."""
        return self.footer(name, rng) if rng.random() < 0.6 else self.page(name, rng)

    def reading_of(self, change):
        """What of the whole is read after a change."""
        return "all"

    def problem(self, read):
        """Why what was read can't be labels; None where it can."""

    def warm(self):
        """Read everything once, unchanged."""
        for name in self.files:
            change = Change(self.root, name, "nothing", self.files[name])
            reading = self.reading_of(change)
            if reading not in self._known:
                self._known[reading] = [_bytes(part) for part in self.read(change)]


class StoreSubject(Subject):
    """A store, of either backend."""

    weight = 4.0

    def __init__(self, root):
        super().__init__(root)
        self.store = labelstore.open(root)
        self.manifest = self.store.manifest
        self.commits = self.store.reader.all_commits.copy()
        self.codes = [self.store.block_codes(block) for block in range(2)]
        self.document = self._manifest_file = None

    def choose(self, rng):
        """What is read often, and read fast, more often than what describes it."""
        names = list(self.files)
        return rng.choices(names, [_WEIGHTS[self.part_of(name)] for name in names])[0]

    def part_of(self, name):
        """What a file holds: one of ``_WEIGHTS``."""
        raise NotImplementedError

    def reading_of(self, change):
        """What is read of which block: no more than what a file is of, since most are whole."""
        part = self.part_of(change.name)
        return (part, None) if part in ("all", "table") else (part, self.block_of(change.name))

    def read(self, change):
        part, block = self.reading_of(change)
        if part == "all":
            return [read_everything(self.root)]
        if part == "table":
            store = labelstore.open(self.root)
            return ["\0".join(store.keys).encode("utf-8", "surrogatepass"), store.targets]
        store = self.again()
        if part == "measured":
            return list(store.reader.images(block).values())
        rows, views = np.arange(2 * block, 2 * block + 2), np.arange(self.manifest.num_views)
        parts = [store.read(rows[:, None], views)]
        if store.law == "explicit":
            boxes = store.views(rows[:, None], views)
            parts += [boxes.box, boxes.flip]
        return parts

    def again(self):
        """The store as it is now on the disk."""
        return labelstore.open(self.root)

    def problem(self, read):
        topk = read[0]
        if not isinstance(topk, labelstore.labels.TopK):
            return None
        ids, probs, classes = topk.indices, topk.probs, self.manifest.num_classes
        if not np.isfinite(probs).all() or (probs < 0).any():
            return f"probabilities {probs.min()} to {probs.max()}"
        if probs.sum(-1, dtype=float).max() > 1 + 1e-6:
            return f"probabilities of sum {probs.sum(-1).max()}"
        if ids.min() < 0 or ids.max() >= classes:
            return f"classes {ids.min()} to {ids.max()} of {classes}"
        for tail in ("uniform", "none", *(["image"] if topk.prior is not None else [])):
            dense = topk.recover(tail).dense()
            if not (dense.min() >= 0 and np.abs(dense.sum(-1, dtype=float) - 1).max() < 1e-4):
                return f"tail {tail}: {dense.min()} to {dense.max()}, sum {dense.sum(-1).max()}"
        return None

    def signed_manifest(self, document, rng):
        """A manifest that is another, with its right id as a rule."""
        other = mutations.other_document(document, rng)
        if not isinstance(other, dict):
            return other
        body = {name: value for name, value in other.items() if name != "id"}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        other["id"] = xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
        return other

    def signed_commit(self, name, block, group, values):
        """A block's commit row, of the store's codes but for one array's."""
        row = self.commits[block].copy()
        images, priors, _ = self.codes[block]
        if name in images:
            parts = {**images, name: values}
            row[0] = images_digest(self.manifest.id, block, parts)
        elif name in priors:
            row[-1] = images_digest(self.manifest.id, block, {**priors, name: values}, "prior")
        else:
            column = view_columns(self.manifest)[name][group]
            row[column] = array_digest(self.manifest.id, name, block, group, values)
        return row


class ZarrSubject(StoreSubject):
    """A store in Zarr."""

    def block_of(self, name):
        """The block whose data a file holds."""
        parts = name.split("/")
        if "c" not in parts or name.startswith(("images/key", "images/target")):
            return None
        return int(parts[parts.index("c") + 1])

    def part_of(self, name):
        if name.endswith("zarr.json"):
            return "all"
        if self.block_of(name) is None:
            return "table"
        if name.startswith("commits/"):
            return "commits"
        if name.startswith("images/"):
            return "measured" if name.startswith(_MEASURED) else "lists"
        return "labels"

    def again(self):
        self.store.refresh()
        return self.store

    def knowing(self, name, rng):
        data, others = self.files[name], list(self.files.values())
        block = self.block_of(name)
        if name == "zarr.json":
            document = json.loads(data)
            manifest = document["attributes"]["labelstore"]
            document["attributes"]["labelstore"] = self.signed_manifest(manifest, rng)
            text = mutations.text_of(document)
            return Change(self.root, name, "a manifest with its id", text.encode(), signed=True)
        if name.endswith("zarr.json"):
            text = mutations.text_of(mutations.other_document(json.loads(data), rng))
            return Change(self.root, name, "members", text.encode())
        if name.startswith("commits/"):
            return Change(self.root, name, "a checksum", mutations.mended(data, rng, others))
        if block is None or name.startswith("images/"):
            return self._chunk(name, block, data, rng, others)
        return self._shard(name, block, data, rng, others)

    def _chunk(self, name, block, data, rng, others):
        array = "/".join(name.split("/")[:2])
        if block is None or rng.random() < 0.6:
            return Change(self.root, name, "a chunk's checksum", self._mended(data, rng, others))
        values = {**self.codes[block][0], **self.codes[block][1]}[array]
        other = mutations.other_values(values, rng)
        row = self.signed_commit(array, block, None, other)
        return Change(
            self.root,
            name,
            f"values of {array} with their digests",
            mutations.packed(other),
            [(f"commits/c/{block}/0", mutations.with_crc(row.tobytes()))],
            signed=True,
        )

    def _mended(self, chunk, rng, others):
        return mutations.mended(chunk, rng, others)

    def _shard(self, name, block, data, rng, others):
        array = "/".join(name.split("/")[:2])
        shard = mutations.Shard(data, self.manifest.num_groups)
        kind = rng.random()
        if kind < 0.25 or not shard.places:
            return Change(self.root, name, "an index's checksum", shard.with_index(rng))
        group = rng.choice(shard.places)
        if kind < 0.6:
            chunk = self._mended(shard.chunk(group), rng, others)
            return Change(self.root, name, "a chunk's checksum", shard.with_chunk(group, chunk))
        spec = next(spec for spec in view_arrays(self.manifest) if spec.name == array)
        width = self.manifest.group_views
        whole = mutations.unpacked(shard.chunk(group), spec.dtype)
        other = mutations.other_values(whole.reshape(2, width, *spec.shape[2:]), rng)
        views = self.manifest.group_slice(group)
        row = self.signed_commit(array, block, group, other[:, : views.stop - views.start])
        return Change(
            self.root,
            name,
            f"values of {array} with their digests",
            shard.with_chunk(group, mutations.packed(other)),
            [(f"commits/c/{block}/0", mutations.with_crc(row.tobytes()))],
            signed=True,
        )


class UnitsSubject(ZarrSubject):
    """A store in Zarr whose labels lie in units: read at random, in whole blocks, and the largest.

    A way of reading that needs less than another may go on where that one sees the damage.
    """

    def read(self, change):
        part, block = self.reading_of(change)
        if part not in ("labels", "commits"):
            return super().read(change)
        store = self.again()
        rows, views = np.arange(2 * block, 2 * block + 2), np.arange(self.manifest.num_views)

        def whole():
            return b"".join(codes.tobytes() for codes in store.block_codes(block)[2].values())

        ways = (
            lambda: store.read(rows[:, None], views),
            whole,
            lambda: store.confidence(slice(2 * block, 2 * block + 2)),
        )
        parts, errors = [], []
        for way in ways:
            try:
                parts.append(way())
            except LabelStoreError as error:
                parts.append(None)
                errors.append(error)
        if len(errors) == len(ways):
            raise errors[0]
        return parts

    def same(self, read, change):
        known = self._known[self.reading_of(change)]
        return all(
            part is None or _bytes(part) == right for part, right in zip(read, known, strict=True)
        )

    def _shard(self, name, block, data, rng, others):
        kind = rng.random()
        units = UnitBlocks(self.manifest)
        if kind < 0.3:
            # Places and sizes have no digest; the first half of a row's entries are no others.
            index = len(data) - units.index_bytes
            place = index + 8 * rng.randrange(units.index_bytes // 8)
            other = bytearray(data)
            other[place : place + 2] = mutations.near(data[place : place + 2], rng)
            return Change(self.root, name, "an index's numbers", bytes(other))
        if kind < 0.5:
            start, length = units.parts_of(data)
            tables = mutations.blind(data[start : start + length], rng, others)[:length]
            other = data[:start] + tables.ljust(length, b"\0") + data[start + length :]
            return Change(self.root, name, "tables", other)
        codes = self.codes[block][2]
        array = rng.choice(list(codes))
        other = {**codes, array: mutations.other_values(codes[array], rng)}
        try:
            data, digests = units.encode(block, other)
        except UsageError:
            return None
        images, priors, _ = self.codes[block]
        row = commit_row(self.manifest, block, {**images, **priors, **other}, digests)
        return Change(
            self.root,
            name,
            f"values of {array} with their digests",
            data,
            [(f"commits/c/{block}/0", mutations.with_crc(row.tobytes()))],
            signed=True,
        )


class ParquetSubject(StoreSubject):
    """A store of Parquet files."""

    weight = 1.0

    def block_of(self, name):
        """The block whose data a file holds."""
        return int(name.split("/")[1].split(".")[0]) if "/" in name else None

    def part_of(self, name):
        if "/" not in name:
            return "table" if name == "images.parquet" else "all"
        part = name.split("/")[0]
        return "lists" if part == "measured" and self.manifest.prior_size else part

    def knowing(self, name, rng):
        block = self.block_of(name)
        if name == "manifest.json":
            document = self.signed_manifest(json.loads(self.files[name]), rng)
            text = mutations.text_of(document)
            return Change(self.root, name, "a manifest with its id", text.encode(), signed=True)
        if block is None:
            return self.table(name, rng)
        if name.startswith("commits/"):
            return self._commit(name, rng)
        if rng.random() < 0.6:
            return self.table(name, rng)
        return self._values(name, block, rng)

    def _commit(self, name, rng):
        data = io.BytesIO()
        row = np.load(io.BytesIO(self.files[name]))
        kind = rng.randrange(4)
        other = mutations.other_values(row, rng)
        if kind == 0:
            other = other.astype(rng.choice(("<i4", ">u8", "<f8", "U4", "V8")))
        elif kind == 1:
            other = other.reshape(1, -1)
        np.save(data, other, allow_pickle=False)
        return Change(self.root, name, "an array", data.getvalue())

    def _values(self, name, block, rng):
        images, priors, views = self.codes[block]
        part = views if name.startswith("labels/") else {**images, **priors}
        array = rng.choice(list(part))
        other = {**part, array: mutations.other_values(part[array], rng)}
        rows = self.manifest.block_slice(block)
        row = self.commits[block]
        try:
            if name.startswith("labels/"):
                groups = range(self.manifest.num_groups)
                tables = [label_table(other, rows, self.manifest.group_slice(g)) for g in groups]
                row = row.copy()
                for group in groups:
                    columns = self.manifest.group_slice(group)
                    signed = self.signed_commit(array, block, group, other[array][:, columns])
                    row[signed != self.commits[block]] = signed[signed != self.commits[block]]
            else:
                tables = [measured_table(other, rows)]
                row = self.signed_commit(array, block, None, other[array])
            data = file_of(tables)
        except (ValueError, pa.ArrowException):
            return None
        commit = io.BytesIO()
        np.save(commit, row, allow_pickle=False)
        also = [(f"commits/{block:06}.npy", commit.getvalue())]
        how = f"values of {array} with their digests"
        return Change(self.root, name, how, data, also, signed=True)


class CopySubject(Subject):
    """A materialized copy."""

    weight = 0.5

    def read(self, change):
        return [read_everything(self.root)]


class SourceSubject(Subject):
    """Photos in shards: no digest says what they were, so that an error or any photos will do.

    But none may be lost in silence: there are as many as before, those counted that were passed
    over since their names are no image's any more. Names may change: the headers of a tar have a
    sum as checksum, which exchanged bytes keep; an extended header's path has none, nor has a
    path in a table.
    """

    def read(self, change):
        source = open_source(self.root)
        photos = [source.read(index) for index in range(len(source))]
        return [len(photos) + source.passed_over.count]

    def same(self, read, change):
        # A shard that is gone as a whole is missed by nobody.
        return change.how == "nothing" or read[0] >= len(PHOTOS)

    def warm(self):
        assert self.read(None) == [len(PHOTOS)]

    def knowing(self, name, rng):
        data = self.files[name]
        if name.endswith(".parquet"):
            return self.table(name, rng)
        # The header of another member, with the checksum of what it is now: any archive will do.
        place = 512 * rng.randrange(len(data) // 512)
        block = bytearray(
            mutations.blind(data[place : place + 512], rng, list(self.files.values()))
        )
        block = block[:512].ljust(512, b"\0")
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        changed = data[:place] + bytes(block) + data[place + 512 :]
        return Change(self.root, name, "a header's checksum", changed, signed=True)


def make_files(folder):
    """All that is fuzzed, in a folder of its own."""
    for name, (make, settings) in STORES.items():
        make(folder / name, **{**SIZE, **settings})
        (folder / name / ".lock").unlink()
    for name in ("list-ratio16.parquet", "boxes-fp32.parquet"):
        bare = folder / f"bare-{name}"
        shutil.copytree(folder / name, bare)
        for file in bare.rglob("*.parquet"):
            _without_checksums(file)
    materialize(labelstore.open(folder / "list-ratio16.zarr"), folder / "copy")
    for make in (_tar, _photo_table):
        shards = folder / make.__name__.strip("_")
        shards.mkdir()
        make(shards)


def subjects_of(folder, names=()):
    """The subjects of such a folder, or those of some names, always in the same order."""
    kinds = {"copy": CopySubject, "tar": SourceSubject, "photo_table": SourceSubject}
    suffixes = {".units.zarr": UnitsSubject, ".zarr": ZarrSubject, ".parquet": ParquetSubject}
    return [
        kinds.get(path.name, suffixes.get("".join(path.suffixes)))(path)
        for path in sorted(folder.iterdir())
        if not names or path.name in names
    ]


def _without_checksums(file):
    """Write a Parquet file anew, so that what is changed in its pages is decoded."""
    opened = pq.ParquetFile(io.BytesIO(file.read_bytes()))
    with pq.ParquetWriter(file, opened.schema_arrow, compression="none") as writer:
        for group in range(opened.num_row_groups):
            writer.write_table(opened.read_row_group(group))


PHOTOS = {f"n{number}/{number}.jpg": bytes([number]) * 40 for number in range(4)}
PHOTOS["n4/\u00e9.jpg"] = b"4" * 40
PHOTOS["n5/long.jpg"] = b"5" * 600
"""Of which one has a name that takes an extended header, and one several blocks."""


def _tar(folder):
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for name, data in list(PHOTOS.items())[3 * shard : 3 * shard + 3]:
                for suffix, content in ((".jpg", data), (".cls", b"3")):
                    member = tarfile.TarInfo(name.removesuffix(".jpg") + suffix)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def _photo_table(folder):
    images = [{"bytes": data, "path": name} for name, data in PHOTOS.items()]
    names = {"info": {"features": {"label": {"names": ["a", "b"]}}}}
    table = pa.table({"image": images, "label": [0, 1, 0, 1, 0, 1]})
    table = table.replace_schema_metadata({b"huggingface": json.dumps(names).encode()})
    pq.write_table(table, folder / "a.parquet", row_group_size=3)


def _bytes(part):
    if isinstance(part, labelstore.labels.TopK):
        prior = part.prior
        lists = () if prior is None else (prior.classes, prior.probs, prior.power)
        return b"".join(
            np.ascontiguousarray(a).tobytes() for a in (part.indices, part.probs, *lists)
        )
    return part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes()
