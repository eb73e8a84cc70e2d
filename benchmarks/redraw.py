"""Tables and pictures of the results that are there, drawn again without measuring anything.

python -m benchmarks.redraw
python -m benchmarks.redraw distill --results results/elsewhere
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.support import convert_report, distill_report, epoch_report, rate_report
from benchmarks.support.measuring import RESULTS

if TYPE_CHECKING:
    from collections.abc import Callable

REPORTS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "rate_distortion": rate_report.write,
    "distill": distill_report.write,
    "distill_scenes": distill_report.write,
    "convert": convert_report.write,
    "read_epoch": lambda result, out: epoch_report.plot(result, out.with_suffix(".png")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", help=f"of {', '.join(REPORTS)}; by default those that are there"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    options = parser.parse_args()
    present = [name for name in REPORTS if (options.results / f"{name}.json").is_file()]
    for name in options.names or present:
        if name not in REPORTS:
            parser.error(f"there is no picture of {name!r}: choose of {', '.join(REPORTS)}")
        path = options.results / f"{name}.json"
        REPORTS[name](json.loads(path.read_text()), path)


if __name__ == "__main__":
    main()
