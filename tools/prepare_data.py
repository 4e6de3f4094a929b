"""Prepares Cityscapes for detection, draws splits, and checks whether a detection data set is fit for training.

    python tools/prepare_data.py cityscapes --data-root /data/cityscapes
    python tools/prepare_data.py splits --ann instances_train2017.json --size 10000 --splits 5 --seed 0 --out splits/coco10k
    python tools/prepare_data.py check coco --data-root /data/coco
    python tools/prepare_data.py check coco --ann my/instances.json --images my/images
    python tools/prepare_data.py check cityscapes --data-root /data/cityscapes

"cityscapes" turns leftImg8bit/ and gtFine/ into annotations/instancesonly_filtered_gtFine_{train,val}.json under the data
root and prints their paths.

"splits" draws reproducible random subsets of a data set's images, the same ids on every machine, smaller ones within larger,
and writes split_0.json ... as {"seed": ..., "sha256": ..., "image_ids": [...]}; split i has the seed S + i, and the LoCo
paper's protocols S = 0. Of the annotation file only the image ids are read. The files' paths are printed.

"check" reads the annotations and decodes every image; it reports issues on stderr, prints them on stdout as JSON, and ends
with exit code 1 if training or evaluation would fail. A corrupt image is fatal in a set that is evaluated on; of a single
--ann it is a warning, as training goes on without it. A set of boxes without masks is one for detectors without a mask head.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import command, note, tool_parser
from pretrain.errors import RunFailedError


@command
def main() -> str:
    parser = tool_parser(__doc__)
    commands = parser.add_subparsers(required=True, metavar="cityscapes|splits|check")
    preparation = commands.add_parser("cityscapes", help="make COCO-format annotations of a Cityscapes tree")
    preparation.add_argument("--data-root", required=True, metavar="DIR", help="folder of leftImg8bit/ and gtFine/")
    preparation.set_defaults(run=prepare)
    splits = commands.add_parser("splits", help="draw reproducible random subsets of a data set's images")
    splits.add_argument("--ann", required=True, metavar="FILE", help="annotation file in COCO's format")
    splits.add_argument("--size", required=True, type=int, metavar="N", help="images per split")
    splits.add_argument("--splits", type=int, default=5, metavar="K", help="number of splits (default: %(default)s)")
    splits.add_argument("--seed", type=int, default=0, metavar="S", help="seed of split 0 (default: %(default)s)")
    splits.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    splits.set_defaults(run=draw_splits)
    checking = commands.add_parser("check", help="check a data set: layout, annotations, and every image")
    checking.add_argument("dataset", choices=("coco", "cityscapes"), help="its layout")
    checking.add_argument("--data-root", metavar="DIR", help="folder of the data set")
    checking.add_argument("--ann", metavar="FILE", help="one annotation file in COCO's format, instead of a data root")
    checking.add_argument("--images", metavar="DIR", help="what the file names in --ann are relative to")
    checking.set_defaults(run=check)
    for subparser in (preparation, checking):
        subparser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    args = parser.parse_args()
    return args.run(args)


def prepare(args: argparse.Namespace) -> str:
    # imported here, for it takes seconds: --help and wrong options do not wait for it
    from loco_det.datasets.cityscapes import prepare_cityscapes

    return "\n".join(map(str, prepare_cityscapes(Path(args.data_root), args.workers)))


def draw_splits(args: argparse.Namespace) -> str:
    from loco_det.datasets.coco import read_image_ids
    from loco_det.datasets.splits import write_splits

    return "\n".join(map(str, write_splits(args.out, read_image_ids(args.ann), args.size, args.splits, args.seed)))


def check(args: argparse.Namespace) -> str:
    single_file = args.dataset == "coco" and args.ann and args.images and not args.data_root
    if not single_file and (not args.data_root or args.ann or args.images):
        raise ValueError("give --data-root DIR, or for coco --ann FILE and --images DIR")
    from loco_det.datasets.cityscapes import check_cityscapes
    from loco_det.datasets.coco import DataCheck, check_annotation_file, check_coco

    if single_file:
        found = DataCheck([check_annotation_file(args.ann, args.images, args.workers)])
    else:
        found = (check_coco if args.dataset == "coco" else check_cityscapes)(args.data_root, args.workers)
    for line in found.lines():
        note(line)
    summary = json.dumps(found.plain(), indent=2)
    if not found.is_usable:
        raise RunFailedError("this data set is not fit for training: fix the errors above", output=summary)
    return summary


if __name__ == "__main__":
    main()
