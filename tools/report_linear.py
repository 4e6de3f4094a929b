"""Prints readout accuracies in the form of the LoCo paper's Tables 1, 4, 5 and 7.

    python tools/report_linear.py work_dirs/readout --table 1
    python tools/report_linear.py work_dirs/readout --table 4 --paper --stage all --format latex > table4.tex

Takes the results of tools/linear_eval.py and tools/knn_eval.py, or folders above them. How an encoder was trained decides
its row; pretrainings that differ in their seeds alone are averaged, those of other settings have columns of their own.
Means ± std over pretrainings, differences to SimCLR in brackets. Only the table goes to stdout; results that are in no row
are told on stderr.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.cli import command, note, tool_parser


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="readout results, or folders above several")
    parser.add_argument("--table", type=int, required=True, metavar="N", help="table of the paper: 1, 4, 5 or 7")
    parser.add_argument("--paper", action="store_true", help="show the published accuracies and rows, too")
    parser.add_argument("--format", choices=("markdown", "latex", "csv", "json"), default="markdown",
                        help="default: %(default)s")
    parser.add_argument("--stage", choices=("last", "all"), default="last",
                        help="the encoder's last one, or a column for each (default: %(default)s)")
    args = parser.parse_args()
    from pretrain.readout.report import accuracy_report

    report = accuracy_report(args.paths, args.table, args.paper, args.format, args.stage)
    for warning in report.warnings:
        note(f"warning: {warning}")
    return report.text.rstrip("\n")


if __name__ == "__main__":
    main()
