"""Prints the AP table of detection experiments in the form of the LoCo paper's Tables 2 and 3.

    python tools/report_ap.py work_dirs/mask_rcnn_simclr_coco10k work_dirs/mask_rcnn_loco_coco10k
    python tools/report_ap.py work_dirs --baseline random --format latex > table.tex

A folder is a work directory with a results.json, or one above several. Means ± std over the splits, differences to the
baseline in brackets. Only the table goes to stdout.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from loco_det.report import BASELINE, FORMATS, ap_report
from pretrain.cli import command, note, tool_parser


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("directories", nargs="+", metavar="DIR", help="work directories, or folders above several")
    parser.add_argument("--baseline", default=BASELINE, help="method to compare with (default: %(default)s)")
    parser.add_argument("--format", default="markdown", choices=list(FORMATS), help="default: %(default)s")
    args = parser.parse_args()
    report = ap_report(args.directories, args.baseline, args.format)
    for warning in report.warnings:
        note(f"warning: {warning}")
    return report.text.rstrip("\n")


if __name__ == "__main__":
    main()
