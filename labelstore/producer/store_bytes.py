"""What a store that is to be made takes, by a sample of its labels.

A chunk costs some bytes whatever is in it, and its first labels, of which the compressor learns,
cost more than the rest. So the sample is stored several times, divided otherwise: what is added by
more blocks, and by more chunks, is told apart from what labels take, and all three are reckoned up
for the blocks and chunks of the store that is planned.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.format.arrays import commit_columns
from labelstore.format.blocks import BlockData
from labelstore.format.manifest import fingerprint
from labelstore.format.unit_blocks import COUNT_BYTES, UnitBlocks
from labelstore.storage.workspaces import workspace
from labelstore.store.backends.zarr.unit_objects import unit_object
from labelstore.store.writer import StoreWriter
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.producer.manifests import StoreSizes

__all__ = ["Division", "LabelSample", "StoreBytes", "empty_store_bytes", "planned_bytes"]

_TABLE_IMAGES = 65536
"""Images of which keys and targets are stored to see what they take: those of a chunk of them."""

_CHECKSUM_BYTES = 4
"""Bytes of the checksum behind a commit's row."""


class Division(NamedTuple):
    """How a sample is divided; the names are those of ``Manifest``."""

    block_images: int
    group_views: int


class StoreBytes(NamedTuple):
    """Bytes of a store's parts; in fractions, as they are reckoned."""

    labels: float
    """Labels and their commits."""
    lists: float
    """The images' lists of likely classes; in Parquet all that is stored of an image in a block."""
    images: float
    """The images' sizes, digests and states."""


@dataclass(frozen=True)
class LabelSample:
    """Labels of some images, as a producer hands them over."""

    manifest: Manifest
    """Of a store of them."""
    indices: npt.NDArray[Any]
    """(n, V, k) class ids."""
    probs: npt.NDArray[Any]
    """(n, V, k) probabilities, largest first."""
    lists: Mapping[str, npt.NDArray[Any]]
    """As ``BlockPriors.arrays``."""
    sizes: npt.NDArray[np.int32] | None = None
    """(n, 2) width and height of each photo, where they are known."""

    def write(self, path: Path, division: Division | None = None) -> Manifest:
        """Make a store of them; its manifest.

        Args:
            path: where. division: another one than the manifest's.
        """
        manifest = self.manifest
        if division is not None:
            manifest = replace(manifest, **division._asdict())
        count = manifest.num_images
        keys, targets = [str(image) for image in range(count)], np.full(count, -1, np.int32)
        facts: dict[str, Any] = dict(self.lists)
        if self.sizes is not None:
            facts |= {"widths": self.sizes[:, 0], "heights": self.sizes[:, 1]}
            # Digests of files are such numbers: nothing makes them smaller.
            facts["digests"] = np.random.default_rng(0).integers(1, 2**63, count, dtype=np.uint64)
        with StoreWriter(path, manifest, keys, targets) as writer:
            for block in range(manifest.num_blocks):
                rows = manifest.block_slice(block)
                parts = {name: array[rows] for name, array in facts.items()}
                writer.write_block(block, BlockData(self.indices[rows], self.probs[rows], **parts))
            return writer.manifest


def planned_bytes(
    sample: LabelSample, num_views: int, sizes: StoreSizes, suffix: str = ".zarr"
) -> StoreBytes:
    """What the labels, lists and images of a planned store take, without what describes them.

    Args:
        sample: some of its labels: the first views of some images.
        num_views: of an image. sizes: how it is divided.
        suffix: of its name: ``".parquet"``, or any other for Zarr.
    """
    planned = replace(sample.manifest, num_views=num_views, **asdict(sizes))
    counts, weights = [], []
    units = 0.0
    with workspace() as folder:
        for number, division in enumerate(_divisions(sample.manifest, planned)):
            path = folder / f"{number}{suffix}"
            manifest = sample.write(path, division)
            counts.append(_counts(manifest))
            weights.append(_weights(path))
            if number == 0 and planned.unit_images is not None:
                units = _bytes_in_units(path, manifest, planned)
    of = np.array(counts, dtype=np.float64), np.array(weights, dtype=np.float64)
    labels, lists, images = _reckoned(*of, np.array(_counts(planned), dtype=np.float64))
    return StoreBytes(units if planned.unit_images is not None else labels, lists, images)


def empty_store_bytes(
    manifest: Manifest,
    keys: Sequence[str],
    targets: npt.NDArray[np.int32],
    suffix: str = ".zarr",
) -> int:
    """What a store takes before it has a block: its manifest, the descriptions of its arrays, and
    the images' keys and ground truth.

    Args:
        manifest: of the store. keys, targets: (num_images,) of its images.
        suffix: as for ``planned_bytes``.
    """
    count = min(manifest.num_images, _TABLE_IMAGES)
    first = keys[:count]
    law = manifest.law
    held = replace(
        manifest,
        # Mixed views name how many photos they are mixed with, and which: a line.
        law=law.unmixed if isinstance(law, ViewLaw) else law,
        num_images=count,
        block_images=min(manifest.block_images, count),
        fingerprint=fingerprint(first, targets[:count]),
    )
    with workspace() as folder:
        path = folder / f"empty{suffix}"
        with StoreWriter(path, held, first, targets[:count]):
            pass
        files = {file: file.stat().st_size for file in path.rglob("*") if file.is_file()}
    described = sum(size for file, size in files.items() if _describes(file))
    table = sum(files.values()) - described
    return described + round(table * manifest.num_images / count)


def _divisions(sample: Manifest, planned: Manifest) -> Iterator[Division]:
    """How the sample is divided: into chunks as large as those that are planned, if there are so
    many labels; then the same with twice the blocks, and with twice the chunks of a block."""
    images, views = sample.num_images, sample.num_views
    planned_images = min(planned.block_images, planned.num_images)
    planned_views = min(planned.group_views, planned.num_views)
    block_images, group_views = min(images, planned_images), min(views, planned_views)
    if planned.unit_images is not None:
        # What a block's tables take, and how well they suit it, depends on how many labels it has.
        block_images = min(images, -(-planned_images * planned.num_views // views))
    else:
        labels = planned_images * planned_views
        group_views = min(views, max(group_views, -(-labels // block_images)))
    yield Division(block_images, group_views)
    if block_images > 1:
        yield Division(-(-block_images // 2), group_views)
    if group_views > 1 and planned.unit_images is None:
        yield Division(block_images, -(-group_views // 2))


def _counts(manifest: Manifest) -> tuple[int, int, int, int]:
    """What bytes depend on: blocks, chunks of an array, labels, images."""
    blocks, images = manifest.num_blocks, manifest.num_images
    return blocks, blocks * manifest.num_groups, images * manifest.num_views, images


def _weights(path: Path) -> tuple[int, int, int]:
    """Bytes of a store's labels and commits, of its lists, and of what else is of its images, but
    for keys and targets."""
    labels = lists = images = 0
    for file in path.rglob("*"):
        if not file.is_file() or _describes(file):
            continue
        name, size = file.relative_to(path).as_posix(), file.stat().st_size
        if name.startswith(("labels/", "commits/")):
            labels += size
        elif name.startswith(("images/prior", "measured/")):
            lists += size
        elif name.startswith(("images/size", "images/digest", "images/status")):
            images += size
    return labels, lists, images


def _describes(file: Path) -> bool:
    """Whether a file describes arrays or the store."""
    return file.name in ("zarr.json", "manifest.json")


def _reckoned(
    counts: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], planned: Any
) -> tuple[float, float, float]:
    """Bytes of labels, lists and images for other counts than those of the sample's divisions.

    Args:
        counts: (d, 4) of each division, as ``_counts`` has them. weights: (d, 3) bytes of each.
        planned: (4,) the counts that are asked for.
    """
    blocks, chunks, labels, images = range(4)
    parts = []
    for weight, columns in zip(
        weights.T, ([blocks, chunks, labels], [blocks, images], [blocks, images]), strict=True
    ):
        # As shares of the first division's, so that each counts alike where there are too few
        # divisions to tell them apart.
        unit = counts[0, columns]
        costs, *_ = np.linalg.lstsq(counts[:, columns] / unit, weight, rcond=1e-9)
        parts.append(float((planned[columns] / unit) @ costs))
    return parts[0], parts[1], parts[2]


def _bytes_in_units(path: Path, sample: Manifest, planned: Manifest) -> float:
    """Bytes of the labels and commits of the planned store where labels lie in units.

    Units have the bytes that they have in the sample. What lies beside them follows from how many
    blocks, groups and units there are, and a store of a few blocks is not like a large one.
    """
    layout, blocks = UnitBlocks(sample), range(sample.num_blocks)
    objects = [(path / unit_object(block)).read_bytes() for block in blocks]
    units, tables = map(sum, zip(*map(layout.parts_of, objects), strict=True))
    a_block = tables / len(objects) + COUNT_BYTES + UnitBlocks(planned).index_bytes
    a_block += 8 * commit_columns(planned) + _CHECKSUM_BYTES
    share = planned.num_images * planned.num_views / (sample.num_images * sample.num_views)
    return float(units * share + planned.num_blocks * a_block)
