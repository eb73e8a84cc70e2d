"""The card of a store: what its labels are, in Markdown, as data sets on the hub have one.

Everything in it is read from the store. What a store cannot know, such as the licence, is a field
that says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import printable
from labelstore.operations.inspection.inspect import summary
from labelstore.operations.lifecycle.history import history
from labelstore.store.lineage import CONVERTED_FROM, teacher_names
from labelstore.store.store import opened
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from labelstore.format.manifest import Manifest
    from labelstore.store.store import Store

__all__ = ["RowFiles", "card"]

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


@dataclass(frozen=True)
class RowFiles:
    """Parquet files beside a card with a row for each view, in place of a store."""

    files: str
    """Their names, as a pattern."""
    num_images: int
    """Whose labels they have, of those of the store."""
    num_views: int
    """Of each image."""


LOADING_ROWS = """```python
from datasets import load_dataset

labels = load_dataset("OWNER/NAME", split="train")  # or the path of a folder
print(labels[0]["key"], labels[0]["view"], labels[0]["classes"], labels[0]["probabilities"])
```

`box` is top, left, height and width of the crop in pixels of the upright photo, `flip` whether it
is mirrored after that. `classes` begin with the likeliest; what their `probabilities` leave of 1 is
that of all other classes together."""


def card(
    store: Store | str | os.PathLike[str],
    *,
    url: str | None = None,
    preview: str | None = None,
    rows: RowFiles | None = None,
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
        rows: the files beside the card, where these are what it is of, and not the store.
        license_id: as the hub calls the licence, such as ``cc-by-4.0``; a field to fill when None.
        sample: how many views of each image are looked at for the numbers, as
            ``labelstore.operations.inspection.inspect.report`` has it.
        tell: called after each block with how many images, and how many views, it had.

    Raises:
        IncompleteError: the store is not finished. CorruptError: it is damaged.
    """
    store = opened(store)
    store.require_complete()
    statistics = summary(store, sample=sample, tell=tell)
    name = _name(store)
    sections = [
        _head(name, ("preview", preview) if rows is None else ("default", rows.files), license_id),
        f"# Soft labels: {_text(name)}",
        _what(store.manifest, statistics, rows),
        "## How to load",
        _loading(url or name, store) if rows is None else LOADING_ROWS,
        "## Teacher",
        _teachers(store.manifest),
        "## Licence",
        _licence(license_id),
        "## Views",
        _views(store.manifest, rows is not None),
        "## How the labels are stored",
        _coded(store.manifest) + (_layout(store.manifest, statistics) if rows is None else ""),
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


def _head(name: str, shown: tuple[str, str | None], license_id: str | None) -> str:
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
    config, files = shown
    if files is not None:
        lines += ["configs:", f"- config_name: {config}", f"  data_files: {json.dumps(files)}"]
    return "\n".join([*lines, "---"])


def _what(manifest: Manifest, statistics: dict[str, Any], rows: RowFiles | None) -> str:
    store = statistics["store"]
    unreadable = store["unreadable_images"]
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
    written = f"Written by labelstore as store `{manifest.id}`."
    if rows is not None:
        written = (
            f"Here are {rows.num_images:,} of the images and {rows.num_views:,} of the views of "
            f"each, a row a view, exported from the labelstore store `{manifest.id}`, which the "
            "numbers on this page are of."
        )
    return (
        f"What a teacher says of {manifest.num_views:,} random crops (views) of each of "
        f"{manifest.num_images:,} images: of {manifest.num_classes:,} classes {kept}, and their "
        f"probabilities. Made once, so that any number of students is trained without the teacher. "
        f"The images are not part of it, only their keys.{missing}{right}\n\n{written}"
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
    described = {teacher["spec"] for teacher in manifest.teachers}
    names = teacher_names(manifest)
    if not names:
        return "The store does not say what made its labels. TO FILL: the teacher."
    converted = manifest.producer.get(CONVERTED_FROM)
    how = f", as told when {_text(converted)} labels were converted" if converted else ""
    lines = [f"* {_code(name)}{how}" for name in names if name not in described]
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
    if libraries and not converted:
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


def _views(manifest: Manifest, in_rows: bool) -> str:
    law = manifest.law
    place = "in the rows." if in_rows else "stored beside the labels."
    if isinstance(law, ViewLaw):
        crops = ", ".join(
            f"{name} {_text(value)}" for name, value in law.to_json().items() if name != "stages"
        )
        if law.stages:
            crops += f", then {', '.join(map(str, law.stages))}"
        return (
            f"{manifest.num_views:,} an image. Which crop a view is follows from the image's key, "
            f"its size and the view's number: {crops}. "
            + (
                "The box and flip of each stand in its row."
                if in_rows
                else "Nothing of it is stored."
            )
        )
    if law is None:
        return (
            f"{manifest.num_views:,} an image. The store does not say which crops they are, so "
            "they cannot be cut again."
        )
    return f"{manifest.num_views:,} an image. Their boxes and flips are {place}"


def _coded(manifest: Manifest) -> str:
    mass = f", as many as a mass of {manifest.top_p:g} needs" if manifest.top_p is not None else ""
    prior = (
        f", a list of {manifest.prior_size} likely classes an image" if manifest.prior_size else ""
    )
    return (
        f"* top {manifest.k} of {manifest.num_classes:,} classes{mass}{prior}\n"
        f"* probabilities by the quantizer `{manifest.quantizer}`"
    )


def _layout(manifest: Manifest, statistics: dict[str, Any]) -> str:
    weights, per_crop = statistics["bytes"], statistics["bytes"]["total_per_crop"]
    each = "" if per_crop is None else f", {per_crop:.2f} a label"
    rows = "\n".join(
        f"| {_code(part)} | {size:,} |" for part, size in weights["parts"].items() if size
    )
    units = "" if manifest.unit_images is None else f", in units of {manifest.unit_images:,} images"
    return (
        f"\n* blocks of {manifest.block_images:,} images{units}, "
        f"groups of {manifest.group_views:,} views, each with a digest that readers check\n"
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
