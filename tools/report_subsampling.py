"""Prints readout accuracies in the form of the second paper's Tables 1 and 2, and the values of its Figures 3 and 4.

    python tools/report_subsampling.py work_dirs/pretrain
    python tools/report_subsampling.py work_dirs/pretrain --table 1 --paper --format latex > table1.tex
    python tools/report_subsampling.py work_dirs/pretrain --figure 3 --format csv > thresholds.csv

Takes linear readouts of decoupled SimCLR and of SimCLR end to end (tools/linear_eval.py), or folders above them. Rows are
the number K of decoupled blocks, with and without subsampling; means ± std over pretrainings that differ in their seeds
alone, differences to SimCLR in brackets. "Max MACs" and "Memory" are counted from each pretraining's record. Only the table
goes to stdout; results that are in no row are told on stderr.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.cli import command, note, tool_parser


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("paths", nargs="+", metavar="DIR", help="readout results, or folders above several")
    parser.add_argument("--table", type=int, choices=(1, 2), help="default: those that there are results for")
    parser.add_argument("--figure", type=int, choices=(3, 4), help="3 is accuracy by threshold, 4 by which pairs")
    parser.add_argument("--paper", action="store_true", help="show the published numbers, too")
    parser.add_argument("--format", choices=("markdown", "latex", "csv", "json"), default="markdown",
                        help="default: %(default)s")
    parser.add_argument("--stage", choices=("last", "all"), default="last",
                        help="the encoder's last one, or a column for each (default: %(default)s)")
    args = parser.parse_args()
    from pretrain.readout.subsampling_report import subsampling_report

    report = subsampling_report(args.paths, args.table, args.figure, args.paper, args.format, args.stage)
    for warning in report.warnings:
        note(f"warning: {warning}")
    for line in report.notes:
        note(f"note: {line}")
    return report.text.rstrip("\n")


if __name__ == "__main__":
    main()
