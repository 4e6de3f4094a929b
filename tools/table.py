"""Prints results: all of them, or a table of one of the papers.

    python tools/table.py work_dirs                                     # every method, data set and protocol
    python tools/table.py work_dirs --baseline random --format latex > table.tex
    python tools/table.py work_dirs --table loco-3 --paper              # the paper's Table 3, its numbers beside ours
    python tools/table.py work_dirs --per-class                         # AP of every class
    python tools/table.py work_dirs --tidy --format csv > rows.csv      # every measurement, for a notebook

Takes records (run.json and what evaluations write) or folders above several. A cell is the mean ± standard deviation over
repetitions (pretraining seeds and splits), the difference to the baseline, and where some are missing (finished/requested).
Only the table goes to stdout; notes and files that could not be used go to stderr.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import check_exist, command, note, tool_parser
from pretrain.results.files import check_any_results


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("paths", nargs="+", metavar="DIR", help="work directories, evaluations, or folders above several")
    parser.add_argument("--table", metavar="NAME",
                        help="loco-1, -2, -3, -4, -5, -7, subsampling-1, -2 (default: all results)")
    parser.add_argument("--paper", action="store_true", help="show the published numbers beside ours; needs --table")
    parser.add_argument("--baseline", metavar="LABEL", help="method to compare with (default: SimCLR, or the table's)")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="such as bbox_AP50 (default: AP and top-1 accuracy)")
    parser.add_argument("--stage", choices=("last", "all"), default="last", help="of evaluations (default: %(default)s)")
    parser.add_argument("--per-class", action="store_true", help="AP of every class")
    parser.add_argument("--tidy", action="store_true", help="every measurement as a row; with --format csv or json")
    parser.add_argument("--format", default="text", choices=("text", "markdown", "latex", "csv", "json"),
                        help="default: %(default)s")
    args = parser.parse_args()
    check_exist(args.paths, "", "; pass work directories, or folders above several")
    check_any_results(args.paths)
    # imported here, for it takes seconds: --help and wrong options do not wait for it
    from pretrain.results.formats import table_text, tidy_text
    from pretrain.results.table import results_table

    if args.tidy:
        text, warnings = tidy_text(args.paths, args.format)
    else:
        table, warnings = results_table(args.paths, args.table, paper=args.paper, baseline=args.baseline,
                                        metrics=args.metrics, every_stage=args.stage == "all", per_class=args.per_class)
        text = table_text(table, args.format)
        for line in table.notes:
            note(f"note: {line}")
    for line in warnings:
        note(f"warning: {line}")
    return text.rstrip("\n")


if __name__ == "__main__":
    main()
