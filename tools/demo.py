"""The main job on the embedded default: SimCLR, GIM and LoCo from pretraining to the averaged AP table.

    python tools/demo.py            # or: make demo

What is finished is not done again. The table is printed on stdout and written to work_dirs/demo/ap_table.json;
work_dirs/demo/report.html shows everything.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import command, tool_parser


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("--work-dir", default="work_dirs/demo", metavar="DIR", help="where results go")
    args = parser.parse_args()
    # imported here, for it takes seconds: --help and wrong options do not wait for it
    from loco_det.demo import run_demo

    return run_demo(Path(args.work_dir))


if __name__ == "__main__":
    main()
