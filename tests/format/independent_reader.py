"""A reader of format version 1 from ``schemas/SPEC.md`` alone: no part of labelstore is used."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import xxhash
import zarr


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


def read(path):
    """Class ids (N, V, k), -1 for an empty place, and probabilities, after checking all digests."""
    if path.suffix == ".parquet":
        manifest = json.loads((path / "manifest.json").read_text())
        group = parquet_arrays(path, manifest)
    else:
        group = zarr.open_group(path, mode="r")
        manifest = dict(group.attrs["labelstore"])
    store_id = manifest.pop("id")
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert xxhash.xxh3_128_hexdigest(canonical.encode()) == store_id
    labels, layout = manifest["labels"], manifest["layout"]
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
        if m:
            expected.append(digest_of_parts(group, store_id, block, rows, "prior", PRIOR_ARRAYS))
        assert row.tolist() == expected
    if labels["encoding"] == "plain":
        probs = group["labels/top_prob"][..., None]
        if k > 1:
            probs = np.concatenate([probs, group["labels/rest_probs"]], -1)
        classes = group["labels/classes"].astype(int)
        classes[..., 1:][probs[..., 1:] == 0] = -1
        return classes, probs
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
    return classes, probs


IMAGE_ARRAYS = ("images/digest", "images/size", "images/status")
PRIOR_ARRAYS = ("images/prior_classes", "images/prior_power", "images/prior_probs")


def digest_of_parts(group, store_id, block, rows, name, parts):
    digests = [digest(store_id, part, block, "-", group[part][rows]) for part in parts]
    return digest(store_id, name, block, "-", np.array(digests, dtype="<u8"))
