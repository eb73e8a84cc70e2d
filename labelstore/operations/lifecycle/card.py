"""The card of a store: what its labels are, in Markdown, as data sets on the hub have one.

Everything in it is read from the store. What a store cannot know, such as the licence, is a field
that says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import printable
from labelstore.operations.inspection.inspect import report
from labelstore.operations.lifecycle.history import history
from labelstore.store.store import opened
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from labelstore.format.manifest import Manifest
    from labelstore.store.store import Store

__all__ = ["card"]

UNKNOWN_LICENSE = "unknown"
"""What the hub calls a licence that nobody has named."""

BAR = 40
"""Letters of the histogram's longest bar."""

CITATIONS = """```bibtex
@inproceedings{shen2022fkd,
  title = {A Fast Knowledge Distillation Framework for Visual Recognition},
  author = {Shen, Zhiqiang and Xing, Eric},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year = {2022}
}
@inproceedings{shen2023ferkd,
  title = {FerKD: Surgical Label Adaptation for Efficient Distillation},
  author = {Shen, Zhiqiang},
  booktitle = {International Conference on Computer Vision (ICCV)},
  year = {2023}
}
```"""


def card(
    store: Store | str | os.PathLike[str],
    *,
    url: str | None = None,
    preview: str | None = None,
    license_id: str | None = None,
    sample: int | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> str:
    """A data-set card in Markdown, with the YAML that the Hugging Face hub reads at its head.

    The same store gives the same card.

    Args:
        store: a finished store, open or as a path or URL.
        url: where it will be read from; the store's name when None.
        preview: of the Parquet file beside the card that the hub's viewer is to show, its name.
        license_id: as the hub calls the licence, such as ``cc-by-4.0``; a field to fill when None.
        sample: how many views of each image are looked at for the numbers, as
            ``labelstore.operations.inspection.inspect.report`` has it.
        tell: called after each block with how many images, and how many views, it had.

    Raises:
        IncompleteError: the store is not finished. CorruptError: it is damaged.
    """
    store = opened(store)
    store.require_complete()
    statistics = report(store, sample=sample, tell=tell)
    name = _name(store)
    sections = [
        _head(name, preview, license_id),
        f"# Soft labels: {_text(name)}",
        _what(store.manifest, statistics),
        "## How to load",
        _loading(url or name, store),
        "## Teacher",
        _teachers(store.manifest),
        "## Licence",
        _licence(license_id),
        "## Views",
        _views(store.manifest),
        "## How the labels are stored",
        _stored(store.manifest, statistics),
        "## Fidelity",
        _fidelity(store.manifest, statistics),
        "## How confident the teacher is",
        _histogram(statistics),
        "## History",
        _history(store),
        "## Citation",
        "The method is that of FKD, and of FerKD where its rule is applied:",
        CITATIONS,
    ]
    return "\n\n".join(sections) + "\n"


def _name(store: Store) -> str:
    return store.path.name if isinstance(store.path, Path) else store.path.rpartition("/")[2]


def _text(value: object) -> str:
    """A word from a store, as Markdown shows it and never obeys it."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|$~&" else c for c in printable(str(value)))


def _code(value: object) -> str:
    """A word from a store as code."""
    return f"`{printable(str(value)).replace('`', chr(39))}`"


def _head(name: str, preview: str | None, license_id: str | None) -> str:
    licence = (
        f"license: {UNKNOWN_LICENSE}  # TO FILL: the licence of these labels"
        if license_id is None
        else f"license: {json.dumps(license_id)}"
    )
    lines = [
        "---",
        licence,
        # JSON is YAML, and quotes what comes from a store.
        f"pretty_name: {json.dumps(printable(f'Soft labels: {name}'))}",
        "task_categories:",
        "- image-classification",
        "tags:",
        "- soft-labels",
        "- knowledge-distillation",
        "- labelstore",
    ]
    if preview is not None:
        lines += ["configs:", "- config_name: preview", f"  data_files: {json.dumps(preview)}"]
    return "\n".join([*lines, "---"])


def _what(manifest: Manifest, statistics: dict[str, Any]) -> str:
    told = statistics["store"]
    unreadable = told["unreadable_images"]
    missing = (
        f" {unreadable:,} of the images could not be read and have none." if unreadable else ""
    )
    agreement = statistics["agreement"]
    right = ""
    if agreement is not None:
        right = (
            f" The largest class is the ground truth in {agreement['top1']:.1%} of the crops whose "
            "ground truth is known."
        )
    kept = f"the {manifest.k} largest" if manifest.k > 1 else "the largest"
    return (
        f"What a teacher says of {manifest.num_views:,} random crops (views) of each of "
        f"{manifest.num_images:,} images: of {manifest.num_classes:,} classes {kept}, and their "
        f"probabilities. Made once, so that any number of students is trained without the teacher. "
        f"The images are not part of it, only their keys.{missing}{right}\n\n"
        f"Written by labelstore as store `{manifest.id}`."
    )


def _loading(url: str, store: Store) -> str:
    place = json.dumps(printable(url), ensure_ascii=False)
    extra = ""
    if url.startswith("hf://"):
        extra = (
            "\n\nThat reads over the network (with the extra `remote`), as `main` is now. "
            "`NAME@COMMIT` pins a commit; `labelstore pull` copies all or a part of it at one "
            "commit."
        )
    part = f"range({min(4, store.num_views)})"
    labelled = np.flatnonzero(store.labelled())
    row = int(labelled[0]) if len(labelled) else 0
    return (
        "```python\nimport labelstore\n\n"
        f"store = labelstore.open({place})\n"
        f"labels = store.read({row}, {part})  # views of an image\n"
        f"print(store.keys[{row}], labels.indices, labels.probs)\n```" + extra
    )


def _teachers(manifest: Manifest) -> str:
    if not manifest.teachers:
        return "The store does not say what made its labels. TO FILL: the teacher."
    lines = []
    for teacher in manifest.teachers:
        height, width = teacher["input_size"]
        # Where it lay on the producer's machine tells nobody anything.
        file = (teacher["checkpoint"] or "").rpartition("/")[2]
        checkpoint = f" with {_code(file)}" if file else ""
        lines.append(
            f"* {_code(teacher['spec'])}{checkpoint}, weights {_code(teacher['weights_digest'])}, "
            f"{height} x {width} pixels, in {_text(teacher['precision'])} on "
            f"{_text(teacher['device'])}"
        )
        if teacher.get("untrained"):
            lines[-1] += ". **Its weights are random: these labels teach nothing.**"
    if manifest.temperature is not None:
        lines.append(f"* Temperature {manifest.temperature:g}.")
    libraries = ", ".join(f"{name} {version}" for name, version in manifest.producer.items())
    if libraries:
        lines.append(f"* Libraries: {_text(libraries)}.")
    return "\n".join(lines)


def _licence(license_id: str | None) -> str:
    own = (
        "TO FILL: the licence of these labels (at the head of this page, too)."
        if license_id is None
        else f"These labels: {_code(license_id)}."
    )
    return (
        f"* {own}\n* TO FILL: the licence of the teacher's weights.\n"
        "* TO FILL: the licence of the images, which are not part of this."
    )


def _views(manifest: Manifest) -> str:
    law = manifest.law
    if isinstance(law, ViewLaw):
        told = ", ".join(
            f"{name} {_text(value)}" for name, value in law.to_json().items() if name != "stages"
        )
        if law.stages:
            told += f", then {', '.join(map(str, law.stages))}"
        return (
            f"{manifest.num_views:,} an image. Which crop a view is follows from the image's key, "
            f"its size and the view's number: {told}. Nothing of it is stored."
        )
    if law is None:
        return (
            f"{manifest.num_views:,} an image. The store does not say which crops they are, so "
            "they cannot be cut again."
        )
    return f"{manifest.num_views:,} an image. Their boxes and flips are stored beside the labels."


def _stored(manifest: Manifest, statistics: dict[str, Any]) -> str:
    weights, per_crop = statistics["bytes"], statistics["bytes"]["total_per_crop"]
    each = "" if per_crop is None else f", {per_crop:.2f} a label"
    prior = (
        f", a list of {manifest.prior_size} likely classes an image" if manifest.prior_size else ""
    )
    mass = f", as many as a mass of {manifest.top_p:g} needs" if manifest.top_p is not None else ""
    rows = "\n".join(
        f"| {_code(part)} | {size:,} |" for part, size in weights["parts"].items() if size
    )
    return (
        f"* top {manifest.k} of {manifest.num_classes:,} classes{mass}{prior}\n"
        f"* probabilities by the quantizer `{manifest.quantizer}`\n"
        f"* blocks of {manifest.block_images:,} images, groups of {manifest.group_views:,} views, "
        "each with a digest that readers check\n"
        f"* {weights['total']:,} bytes{each}\n\n"
        f"| part | bytes |\n|---|---|\n{rows}"
    )


def _fidelity(manifest: Manifest, statistics: dict[str, Any]) -> str:
    residual = statistics["residual"]
    lines = []
    if residual and residual[-1]["mean"] is not None:
        mass = residual[-1]["mean"]
        lines.append(
            f"* The classes outside the stored {manifest.k} have {mass:.2%} of the probability on "
            "average, as readers recover it."
        )
    lines.append(
        "* KL to the teacher's whole distribution: not known from the store, which holds no whole "
        "distributions. TO FILL where it was measured (`labelstore plan` measures it on a sample "
        "of the photos)."
    )
    return "\n".join(lines)


def _histogram(statistics: dict[str, Any]) -> str:
    sample, bins = statistics["sample"], statistics["histogram"]
    most = max((entry["ratio"] or 0.0) for entry in bins)
    if not most:
        return "No crop has labels."
    lines = [
        f"{entry['low']:.2f}-{entry['high']:.2f} {entry['ratio']:7.2%} "
        f"{'#' * round(BAR * entry['ratio'] / most)}".rstrip()
        for entry in bins
    ]
    looked = (
        "all crops"
        if sample["views"] == sample["of"]
        else f"{sample['views']:,} of {sample['of']:,} views of each image"
    )
    return (
        f"The largest probability of each crop, over {looked} (Figure 2 of the FerKD paper):\n\n"
        "```text\n" + "\n".join(lines) + "\n```"
    )


def _history(store: Store) -> str:
    steps = history(store)["steps"]
    if not steps:
        return "Made as it is; no operation followed."
    lines = []
    for number, step in enumerate(steps, 1):
        release = f" (labelstore {_text(step['release'])})" if step["release"] else ""
        sources = ", ".join(_code(source) for source in step["stores"])
        lines.append(
            f"{number}. {_text(step['operation'])}{release} of {sources} made "
            f"{_code(step['result'])}"
        )
    return "\n".join(lines)
