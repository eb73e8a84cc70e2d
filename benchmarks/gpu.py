"""All that only a GPU can tell of labelstore, in one command, for a machine lent by the hour.

Rows are measured in order of worth, each in a process of its own and with a time limit of its own;
time that one leaves goes to those after it. One that fails, hangs or is killed is recorded with its
error and the others go on. The result is written after each row, so a run that is cut keeps what
it has.

    python -m benchmarks.gpu --seconds 420 --out gpu.json
    python -m benchmarks.gpu --dry-run          # every row in tiny sizes on the CPU

It needs no network, and photos are made by it. Of Python 3.11 to 3.13 and torch 2.9 or newer it
takes whatever the machine has. On a machine without network, install the checkout with

    python3 -m pip install --no-deps --no-build-isolation -e .

and the packages listed below that it lacks from wheels.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.support.measuring import RESULTS, machine

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PACKAGES", "ROWS", "Row", "main", "measure"]

STORES = ("zarr", "numcodecs", "google_crc32c", "jsonschema", "xxhash", "labelstore.schemas")
"""What reading and writing a store needs; the last is there once the checkout is installed."""

PACKAGES = {
    "torch": "everything",
    "numpy": "everything",
    "xxhash": "everything",
    "torchvision": "timm",
    "timm": "networks of the rows generate, batch size, training step and two processes",
    "PIL": "photos",
    "zarr": "stores (with its own needs: donfig, packaging, PyYAML, typing-extensions)",
    "msgspec": "stores (newer versions of zarr need it)",
    "numcodecs": "stores",
    "google_crc32c": "stores",
    "jsonschema": "stores (with its own needs: attrs, referencing, rpds-py)",
    "safetensors": "the tests",
    "pyarrow": "the tests of Parquet stores",
    "click": "the command line, for two processes",
    "rich": "the command line, for two processes",
    "pytest": "the tests",
    "labelstore.schemas": "stores: this checkout, installed as said above",
}
"""Module -> what it is for."""

GRACE_SECONDS = 3.0
"""Given to a row beyond its limit to write down what it has, before it is killed."""


@dataclass(frozen=True)
class Row:
    """Something to measure."""

    name: str
    function: str
    """``module:function``, called with a ``Place`` and a ``Record`` in a process of its own."""
    seconds: float
    """Its share of a run of 420 s."""
    needs: tuple[str, ...]
    """Modules without which it is left out."""
    what: str


_TEACHER = (*STORES, "timm", "torchvision", "PIL")

ROWS = (
    Row(
        "tests",
        "benchmarks.support.gpu_kernels:tests",
        90,
        (*_TEACHER, "pytest", "safetensors"),
        "the tests that only a GPU runs",
    ),
    Row(
        "loss",
        "benchmarks.support.gpu_kernels:loss",
        60,
        ("xxhash",),
        "forward and backward of the loss: Triton, plain, compiled and dense",
    ),
    Row(
        "generate",
        "benchmarks.support.gpu_producer:generate",
        170,
        _TEACHER,
        "whole runs in bf16 against the bare forward; crops on the device",
    ),
    Row(
        "batch size",
        "benchmarks.support.gpu_producer:batch_size",
        25,
        _TEACHER,
        "the batch size that is chosen against a sweep",
    ),
    Row(
        "labels",
        "benchmarks.support.gpu_student:labels",
        15,
        ("xxhash",),
        "recover, calibrate and SelfMix: NumPy and the device",
    ),
    Row(
        "training step",
        "benchmarks.support.gpu_student:train_step",
        40,
        _TEACHER,
        "hard, stored and online labels",
    ),
    Row(
        "two processes",
        "benchmarks.support.gpu_producer:sharing",
        35,
        (*_TEACHER, "click", "rich"),
        "two ranks and one card",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where a row failed or was cut."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        epilog="packages:\n" + "\n".join(f"  {name:20}{use}" for name, use in PACKAGES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=420, help="for all rows (default 420)")
    parser.add_argument(
        "--out", type=Path, help="default: benchmarks/results/gpu-CARD.json; a dry run writes none"
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument(
        "--rows", nargs="+", choices=[row.name for row in ROWS], help="only these (default: all)"
    )
    parser.add_argument("--function", help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.function:
        return _in_child(options)
    rows = [row for row in ROWS if options.rows is None or row.name in options.rows]
    card = _card()
    if card is None and not options.dry_run:
        print(
            "Error: nvidia-smi shows no NVIDIA GPU here: run it where there is one, or give "
            "--dry-run to try every row on the CPU.",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or _default_out(card, options.dry_run, Path(folder))
        document = measure(rows, options.seconds, out, dry=options.dry_run, card=card)
        if options.out or not options.dry_run:
            print(f"written to {out}")
    return int(any(row["status"] in ("failed", "cut") for row in document["rows"]))


def measure(
    rows: Sequence[Row],
    seconds: float,
    out: Path,
    *,
    dry: bool = False,
    card: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Measure rows in order, writing ``out`` after each.

    Args:
        rows: what to measure.
        seconds: for all of them; each gets its share of what is left when it begins.
        out: the JSON file.
        dry: tiny sizes, on the CPU.
        card: what the driver says of the GPU.

    Returns:
        what was written: ``rows`` have ``status``: ``measured``; ``failed``, with an ``error``
        (some of the ``entries`` may be there); ``cut`` at its limit; ``left out``, where what it
        needs is missing or no time was left.
    """
    missing = [name for name in PACKAGES if not _is_there(name)]
    document: dict[str, Any] = {
        "benchmark": "gpu",
        "dry_run": dry,
        "machine": {**machine(), "card": card},
        "missing_packages": {name: PACKAGES[name] for name in missing},
        "seconds": seconds,
        "rows": [],
    }
    for name in missing:
        print(f"missing: {name} ({PACKAGES[name]})", flush=True)
    end = time.monotonic() + seconds
    for number, row in enumerate(rows):
        left = end - time.monotonic()
        limit = left * row.seconds / sum(later.seconds for later in rows[number:])
        lacks = [name for name in row.needs if not _is_there(name)]
        start = time.monotonic()
        if lacks:
            result: dict[str, Any] = {"status": "left out", "error": f"missing: {', '.join(lacks)}"}
        elif limit < GRACE_SECONDS:
            result = {"status": "left out", "error": "no time was left"}
        else:
            result = _run(row, limit, dry)
        document["rows"].append(
            {
                "row": row.name,
                "what": row.what,
                "seconds": round(time.monotonic() - start, 1),
                "limit_s": round(max(limit, 0), 1),
                **result,
            }
        )
        _write(out, document)
        _tell(document["rows"][-1])
    return document


def _run(row: Row, limit: float, dry: bool) -> dict[str, Any]:
    """A row in a process of its own, which is killed a little after its limit."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.jsonl"
        record.touch()
        command = [sys.executable, "-m", "benchmarks.gpu", "--function", row.function]
        command += ["--record", str(record), "--seconds", str(limit - GRACE_SECONDS)]
        log = Path(folder) / "log.txt"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [*command, *(["--dry-run"] if dry else [])],
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                # Its own children, too, end with it.
                start_new_session=True,
            )
            status = "measured"
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                status = "cut"
            finally:
                _kill(process)
        result: dict[str, Any] = {"status": status, "entries": _entries(record)}
        if status == "cut":
            result["error"] = f"killed after {limit:.0f} s"
        elif process.returncode:
            result["status"] = "failed"
            last = log.read_text(errors="replace").strip()[-3000:]
            result["error"] = f"ended with {process.returncode}: {last}"
        return result


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _entries(record: Path) -> list[Any]:
    """What a row wrote down; a line that was cut by the kill is left out."""
    entries = []
    for line in record.read_text(errors="replace").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def _in_child(options: argparse.Namespace) -> int:
    """Measure one row; an error is a traceback in the log and an exit code."""
    from benchmarks.support.gpu_place import Place, Record

    module, _, name = options.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    function(Place(options.dry_run), Record(options.record, options.seconds))
    return 0


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _card() -> dict[str, str] | None:
    """Name, driver and memory of the GPU, by nvidia-smi; None where there is none."""
    fields = ("name", "driver_version", "memory.total")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = told.stdout.strip().splitlines()
    if not lines:
        return None
    values = [value.strip() for value in lines[0].split(",")]
    return {**dict(zip(fields, values, strict=True)), "gpus": str(len(lines))}


def _default_out(card: dict[str, str] | None, dry: bool, folder: Path) -> Path:
    if dry or card is None:
        return folder / "gpu.json"
    name = re.sub(r"[^a-z0-9]+", "-", card["name"].lower()).strip("-")
    return RESULTS / f"gpu-{name}.json"


def _write(out: Path, document: dict[str, Any]) -> None:
    """Replace the file as a whole: a run that is cut leaves the one before."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(out)


def _tell(row: dict[str, Any]) -> None:
    """A row's result, a line an entry."""
    print(f"== {row['row']}: {row['status']} in {row['seconds']} s of {row['limit_s']}")
    for entry in row.get("entries", ()):
        print(f"   {json.dumps(entry)[:600]}")
    if "error" in row:
        print(f"   {row['error'][-1500:]}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
