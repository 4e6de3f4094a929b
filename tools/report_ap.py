"""Print the AP table of finished detection experiments, in the form of the LoCo paper.

    python tools/report_ap.py work_dirs/coco10k
    python tools/report_ap.py work_dirs/loco work_dirs/simclr --format latex > table.tex

Only the table goes to standard output; warnings and errors go to standard error. The exit code is
0, or 2 where results are missing, unreadable or given twice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from loco_det.evaluation.results import ResultsError
from loco_det.report import BASELINE, FORMATS, ap_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        description="Print the AP table of detection experiments: mean ± std over the splits, "
        "with differences to a baseline in brackets."
    )
    parser.add_argument(
        "directories",
        nargs="+",
        metavar="DIR",
        help="a work directory with a results.json, or a folder above several",
    )
    parser.add_argument(
        "--baseline", default=BASELINE, help="method to compare with (default: %(default)s)"
    )
    parser.add_argument("--format", default="markdown", choices=list(FORMATS))
    options = parser.parse_args(arguments)
    try:
        report = ap_report(options.directories, options.baseline, options.format)
    except ResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    sys.stdout.write(report.text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
