"""Draws reproducible random subsets of a data set's images: the same ids on every machine, smaller ones within larger.

    python tools/make_splits.py --ann data/coco/annotations/instances_train2017.json --size 10000 --splits 5 --seed 0 \\
        --out splits/coco10k

writes split_0.json ... as {"seed": ..., "sha256": ..., "image_ids": [...]}; split i has the seed S + i, and the LoCo
paper's protocols S = 0. Of the annotation file only the image ids are read. The files' paths are printed on stdout.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import command, tool_parser


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("--ann", required=True, metavar="FILE", help="annotation file in COCO's format")
    parser.add_argument("--size", required=True, type=int, metavar="N", help="images a split")
    parser.add_argument("--splits", type=int, default=5, metavar="K", help="number of splits (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of split 0 (default: %(default)s)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    args = parser.parse_args()
    from loco_det.datasets.annotations import read_image_ids
    from loco_det.datasets.splits import write_splits

    image_ids = read_image_ids(args.ann)
    return "\n".join(map(str, write_splits(args.out, image_ids, args.size, args.splits, args.seed)))


if __name__ == "__main__":
    main()
