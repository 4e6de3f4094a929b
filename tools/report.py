"""Writes one HTML file that shows an experiment: what was run, tables, figures, detections, and what is missing.

    python tools/report.py work_dirs/demo --out work_dirs/demo/report.html
    python tools/report.py work_dirs/pretrain work_dirs/mask_rcnn_loco_coco10k --gallery 8

Folders are work directories, or folders above several; evaluations and analyses in them are found, too. Runs may be
unfinished or have failed. The file needs no network and no other file; its path is printed on stdout.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from loco_det.report import DEFAULT_GALLERY
from pretrain.engine.cli import check_exist, command, tool_parser
from pretrain.results.files import check_any_results


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("directories", nargs="+", metavar="DIR", help="work directories, or folders above several")
    parser.add_argument("--out", default="report.html", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--gallery", type=int, default=DEFAULT_GALLERY, metavar="N",
                        help="validation images to show with detections; 0 for none (default: %(default)s)")
    parser.add_argument("--data-root", metavar="DIR",
                        help="folder of the detection data set, where it has moved since the detectors were trained")
    args = parser.parse_args()
    check_exist(args.directories, "", "; pass work directories, or folders above several")
    check_any_results(args.directories)
    # imported here, for it takes seconds: --help and wrong options do not wait for it
    from loco_det.report.render import write_report

    return str(write_report(args.directories, args.out, args.gallery, args.data_root))


if __name__ == "__main__":
    main()
