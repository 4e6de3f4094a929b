"""Prints AP tables of detection experiments: a general one, or the LoCo paper's Tables 2 and 3.

    python tools/report_ap.py work_dirs/mask_rcnn_simclr_coco10k work_dirs/mask_rcnn_loco_coco10k
    python tools/report_ap.py work_dirs --baseline random --format latex > table.tex
    python tools/report_ap.py work_dirs --table 3 --paper

A folder is a work directory with a results.json, or one above several. Means ± std over the splits, differences to the
baseline of the same encoder and pretraining epochs in brackets. Only the table goes to stdout.
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
    parser.add_argument("--table", type=int, metavar="N", help="table of the paper: 2 or 3 (default: every run)")
    parser.add_argument("--paper", action="store_true", help="show the published numbers beside ours; needs --table")
    parser.add_argument("--baseline", default=BASELINE, help="method to compare with (default: %(default)s)")
    parser.add_argument("--format", default="markdown", choices=list(FORMATS), help="default: %(default)s")
    args = parser.parse_args()
    report = ap_report(args.directories, args.baseline, args.format, args.table, args.paper)
    for warning in report.warnings:
        note(f"warning: {warning}")
    for line in report.notes:
        note(f"note: {line}")
    return report.text.rstrip("\n")


if __name__ == "__main__":
    main()
