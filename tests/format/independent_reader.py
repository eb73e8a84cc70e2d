"""A reader of the format from ``schemas/SPEC.md`` alone: no part of labelstore is used."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import xxhash
import zarr

from tests.format.independent_units import unit_arrays


@dataclass
class Contents:
    """What a store says."""

    classes: np.ndarray
    """(N, V, k) class ids, -1 for an empty place."""
    probs: np.ndarray
    """(N, V, k) float32."""
    lists: tuple
    """Of each image: its likely classes, likeliest first, their mean probabilities, and the power;
    () of a store without lists."""
    num_classes: int
    boxes: np.ndarray
    """(N, V, 4) top, left, height, width."""
    flips: np.ndarray
    """(N, V) bool."""


def top_values(name, codes):
    if name.startswith("ratio"):
        edges = [c / 200 for c in range(200)]
        edges += [1 - 0.005 * 0.9 ** (c - 199) for c in range(200, 255)]
        edges = np.array([*edges, 1.0])
        return ((edges[:-1] + edges[1:]) / 2).astype(np.float32)[codes]
    return codes if name == "fp32" else (codes / 65534).astype(np.float32)


def rest_value(name, code, limit):
    if name.startswith("ratio"):
        steps = int(name.removeprefix("ratio"))
        share = np.where(code == 0, 0.0, np.sin(np.pi * (code - 0.5) / (2 * steps)) ** 2)
        value = (share * limit).astype(np.float32)
        return np.where(value > limit, np.nextafter(value, np.float32(0)), value)
    powers = {"u8": (254, 4), "u16": (65534, 2)}
    if name in powers:
        size, power = powers[name]
        return (0.5 * (code / size) ** power).astype(np.float32)
    return code.astype(np.float32)


def digest(store_id, name, block, group, codes):
    place = f"{store_id}/{name}/{block}/{group}".encode() + b"\0"
    return xxhash.xxh3_64_intdigest(place + np.ascontiguousarray(codes).tobytes()) or 1


def padded(lists, width, empty, missing, dtype):
    """(rows, width) of lists that may be shorter (``empty``) or null (``missing``)."""
    rows = [
        [missing] * width if row is None else [*row, *[empty] * (width - len(row))] for row in lists
    ]
    return np.array(rows, dtype=dtype).reshape(len(rows), width)


def parquet_arrays(path, manifest):
    """The arrays of section 3, whole, from the files of section 7."""
    labels, layout = manifest["labels"], manifest["layout"]
    images, views = manifest["images"]["count"], manifest["views"]["count"]
    k, m, step = labels["k"], labels["prior_size"], layout["group_views"]
    kind = np.dtype("<u2" if labels["num_classes"] <= 65535 else "<u4")
    none = np.iinfo(kind).max
    table = pq.read_table(path / "images.parquet", page_checksum_verification=True)
    assert table["image"].to_pylist() == list(range(images))
    arrays = {
        "images/key": np.array(table["key"].to_pylist(), dtype=object),
        "images/target": table["target"].to_numpy(),
    }
    parts = {}
    blocks = range(-(-images // layout["block_images"]))
    for block in blocks:
        measured = pq.read_table(path / "measured" / f"{block:06}.parquet").to_pydict()
        rows = {
            "images/size": np.stack([measured["width"], measured["height"]], -1).astype("<i4"),
            "images/digest": np.array(measured["digest"], dtype="<u8"),
            "images/status": np.array(measured["status"], dtype="u1"),
        }
        if m:
            rows["images/prior_classes"] = padded(measured["prior_classes"], m, none, none, kind)
            rows["images/prior_probs"] = padded(measured["prior_probs"], m, 0, 0, "<f4")
            rows["images/prior_power"] = np.array(measured["prior_power"], dtype="u1")
        count = len(measured["image"])
        file = pq.ParquetFile(path / "labels" / f"{block:06}.parquet")
        groups = {}
        for number in range(file.metadata.num_row_groups):
            found = file.read_row_group(number).to_pydict()
            first = number * step
            columns = range(first, min(first + step, views))
            places = [(image, view) for image in measured["image"] for view in columns]
            assert list(zip(found["image"], found["view"], strict=True)) == places
            top = [none if value is None else value for value in found["top_class"]]
            classes = np.array(top, dtype=kind)[:, None]
            one = {
                "labels/top_prob": np.array(
                    [np.nan if value is None else value for value in found["top_prob"]], "<f4"
                )
            }
            if k > 1:
                rest = padded(found["rest_classes"], k - 1, 0, none, kind)
                classes = np.concatenate([classes, rest], 1)
                one["labels/rest_probs"] = padded(found["rest_probs"], k - 1, 0, np.nan, "<f4")
            one["labels/classes"] = classes
            if "flip" in found:
                edges = [found[edge] for edge in ("top", "left", "height", "width")]
                one["views/box"] = np.stack(edges, -1).astype("<i4")
                flips = [255 if value is None else int(value) for value in found["flip"]]
                one["views/flip"] = np.array(flips, dtype="u1")
            for name, codes in one.items():
                groups.setdefault(name, []).append(
                    codes.reshape(count, len(columns), *codes.shape[1:])
                )
        rows |= {name: np.concatenate(codes, 1) for name, codes in groups.items()}
        for name, codes in rows.items():
            parts.setdefault(name, []).append(codes)
    arrays |= {name: np.concatenate(codes) for name, codes in parts.items()}
    arrays["commits"] = np.stack(
        [np.load(path / "commits" / f"{block:06}.npy") for block in blocks]
    )
    return arrays


class Arrays:
    """The arrays of a store some of which were made of units."""

    def __init__(self, group, views):
        self.group, self.views = group, views

    def __getitem__(self, name):
        return self.views[name] if name in self.views else self.group[name]


def read(path):
    """The contents of a store, after checking all digests."""
    if path.suffix == ".parquet":
        manifest = json.loads((path / "manifest.json").read_text())
        group = parquet_arrays(path, manifest)
    else:
        group = zarr.open_group(path, mode="r")
        manifest = dict(group.attrs["labelstore"])
    assert manifest["format_version"] in (1, 2, 20001)
    store_id = manifest.pop("id")
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert xxhash.xxh3_128_hexdigest(canonical.encode()) == store_id
    labels, layout = manifest["labels"], manifest["layout"]
    unit_digests = None
    if "unit_images" in layout:
        views, unit_digests = unit_arrays(path, manifest)
        group = Arrays(group, views)
    name, k, m = labels["quantizer"], labels["k"], labels["prior_size"]
    images, views = manifest["images"]["count"], manifest["views"]["count"]
    keys, targets = group["images/key"][:], group["images/target"][:].astype("<i4")
    table = "\0".join(keys).encode() + b"\0" + targets.tobytes()
    assert xxhash.xxh3_128_hexdigest(table) == manifest["images"]["fingerprint"]
    arrays = ["labels/top_prob", "labels/classes", *(["labels/rest_probs"] if k > 1 else [])]
    arrays += ["views/box", "views/flip"] if manifest["views"]["law"] == "explicit" else []
    size, step = layout["block_images"], layout["group_views"]
    for block, row in enumerate(group["commits"][:]):
        rows = slice(block * size, min((block + 1) * size, images))
        expected = [digest_of_parts(group, store_id, block, rows, "images", IMAGE_ARRAYS)]
        for array in arrays:
            codes = group[array][rows]
            expected += [
                digest(store_id, array, block, number, codes[:, start : start + step])
                for number, start in enumerate(range(0, views, step))
            ]
        if unit_digests is not None:
            expected += [
                digest(store_id, "labels/units", block, number, np.array(digests, dtype="<u8"))
                for number, digests in enumerate(unit_digests[block])
            ]
        if m:
            expected.append(digest_of_parts(group, store_id, block, rows, "prior", PRIOR_ARRAYS))
        assert row.tolist() == expected
    boxes, flips = views_of(group, manifest, keys)
    rest = (lists_of(group, labels), labels["num_classes"], boxes, flips)
    if labels["encoding"] == "plain":
        probs = group["labels/top_prob"][..., None]
        if k > 1:
            probs = np.concatenate([probs, group["labels/rest_probs"]], -1)
        classes = group["labels/classes"].astype(int)
        classes[..., 1:][probs[..., 1:] == 0] = -1
        return Contents(classes, probs, *rest)
    probs = [top_values(name, group["labels/top_prob"][:]).astype(np.float32)]
    for rank in range(k - 1):
        left = 1 - sum(value.astype(np.float64) for value in probs)
        limit = np.minimum(probs[-1], left)
        probs.append(rest_value(name, group["labels/rest_probs"][:][..., rank], limit))
    probs = np.stack(probs, -1)
    codes = group["labels/classes"][:].astype(int)
    classes = np.full(codes.shape, -1)
    lists = group["images/prior_classes"][:] if m else np.empty((images, 0), int)
    for place in np.ndindex(images, views):
        used = []
        for rank in range(k):
            if rank and probs[(*place, rank)] == 0:
                break
            code = codes[(*place, rank)]
            left = [entry for entry in lists[place[0]] if entry not in used]
            used.append(left[code] if code < m else code - m)
            classes[(*place, rank)] = used[-1]
    return Contents(classes, probs, *rest)


def lists_of(group, labels):
    if not labels["prior_size"]:
        return ()
    probs = group["images/prior_probs"][:].astype(np.float64)
    if labels["encoding"] == "codes":
        # Section 7: what a list decodes to is a float32.
        probs = ((probs / 255) ** 4).astype(np.float32).astype(np.float64)
    classes = group["images/prior_classes"][:]
    held = classes != np.iinfo(classes.dtype).max
    powers = group["images/prior_power"][:]
    return tuple(
        (classes[image][held[image]].tolist(), probs[image][held[image]].tolist(), power / 100)
        for image, power in enumerate(powers.tolist())
    )


def recovered(contents, image, view, tail):
    """(C,) float64: the distribution that a label is recovered to (section 4)."""
    stored = {
        int(cls): float(p)
        for cls, p in zip(contents.classes[image, view], contents.probs[image, view], strict=True)
        if cls >= 0
    }
    size, total = contents.num_classes, math.fsum(stored.values())
    rest = max(0.0, 1 - total)
    out = np.zeros(size)
    others = [cls for cls in range(size) if cls not in stored]
    if tail == "none":
        for cls, p in stored.items():
            out[cls] = p / total
        return out
    for cls, p in stored.items():
        out[cls] = p
    if tail == "uniform":
        out[others] = rest / len(others)
        return out
    listed, means, power = contents.lists[image]
    stranger = (max(1 - math.fsum(means), 1e-6) / (size - len(listed))) ** power
    weights = dict.fromkeys(others, stranger)
    weights |= {cls: q**power for cls, q in zip(listed, means, strict=True) if cls not in stored}
    limit = 0.75 * min(stored.values())
    capped = set()
    while True:
        free = math.fsum(w for cls, w in weights.items() if cls not in capped)
        left = rest - limit * len(capped)
        over = {c for c in set(listed) & set(weights) - capped if left * weights[c] / free > limit}
        if not over:
            break
        capped |= over
    for cls, weight in weights.items():
        out[cls] = limit if cls in capped else left * weight / free
    return out


def philox(key, counter):
    """The four words of Philox4x32-10."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        one, two = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (two >> 32) ^ c1 ^ k0,
            two & 0xFFFFFFFF,
            (one >> 32) ^ c3 ^ k1,
            one & 0xFFFFFFFF,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def view_of(law, key, view, width, height):
    """Box and flip of one view (section 5)."""
    name = xxhash.xxh3_64_intdigest(key.encode())

    def draw(domain):
        words = (name % 2**32, name // 2**32, domain, view)
        return philox((law["seed"] % 2**32, law["seed"] // 2**32), words)

    (s0, s1), (r0, r1) = law["scale"], law["ratio"]
    for domain in range(10):
        x0, x1, x2, x3 = draw(domain)
        area = width * height * (s0 + (s1 - s0) * (x0 / 2**32))
        ratio = math.exp(math.log(r0) + (math.log(r1) - math.log(r0)) * (x1 / 2**32))
        # Python rounds halves to even.
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            box = (x2 * (height - h + 1) // 2**32, x3 * (width - w + 1) // 2**32, h, w)
            break
    else:
        w, h = width, height
        if width / height < r0:
            h = round(width / r0)
        elif width / height > r1:
            w = round(height * r1)
        box = ((height - h) // 2, (width - w) // 2, h, w)
    return box, draw(16)[0] / 2**32 < law["flip"]


def views_of(group, manifest, keys):
    """Boxes (N, V, 4) and flips (N, V)."""
    law = manifest["views"]["law"]
    if law == "explicit":
        return group["views/box"][:], group["views/flip"][:] == 1
    sizes = group["images/size"][:].tolist()
    views = range(manifest["views"]["count"])
    found = [
        [view_of(law, key, view, *size) for view in views]
        for key, size in zip(keys, sizes, strict=True)
    ]
    boxes = np.array([[box for box, _ in row] for row in found])
    return boxes, np.array([[flip for _, flip in row] for row in found])


IMAGE_ARRAYS = ("images/digest", "images/size", "images/status")
PRIOR_ARRAYS = ("images/prior_classes", "images/prior_power", "images/prior_probs")


def digest_of_parts(group, store_id, block, rows, name, parts):
    digests = [digest(store_id, part, block, "-", group[part][rows]) for part in parts]
    return digest(store_id, name, block, "-", np.array(digests, dtype="<u8"))
