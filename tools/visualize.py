"""Draws what a run did: every sub-command writes PNG and SVG files, ready for a paper's column.

    python tools/visualize.py curves work_dirs/demo/pretrain_{simclr,gim,loco}
    python tools/visualize.py units configs/pretrain/{simclr,gim,loco}_resnet50_imagenet.py
    python tools/visualize.py complexity resnet50 presnet50
    python tools/visualize.py COMMAND --help

The files go to --out, beside each figure's as JSON the values that are drawn. Their names and what each figure shows are
printed on stdout as JSON.
docs/figures.md shows all of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from loco_det.figures import commands as detection
from pretrain.engine.cli import command, tool_parser
from pretrain.figures import commands as pretraining

DEFAULT_OUT = "work_dirs/figures"


@command
def main() -> str:
    parser = tool_parser(__doc__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for known in (*pretraining.COMMANDS, *detection.COMMANDS):
        sentence = f"{known.help[0].upper()}{known.help[1:]}."
        subparser = subparsers.add_parser(known.name, help=known.help, description=sentence)
        known.add_arguments(subparser)
        subparser.add_argument("--out", metavar="DIR", default=DEFAULT_OUT, help=f"where files go (default: {DEFAULT_OUT})")
        subparser.set_defaults(draw=known.draw)
    args = parser.parse_args()
    from pretrain.figures.style import save_drawing

    drawings = args.draw(args)
    files = [file for name, drawing in drawings.items() for file in save_drawing(drawing, Path(args.out) / name)]
    captions = {name: drawing.caption for name, drawing in drawings.items()}
    return json.dumps({"files": list(map(str, files)), "captions": captions})


if __name__ == "__main__":
    main()
