"""Draws what a run did: every sub-command writes PNG and SVG files, ready for a paper's column.

    python tools/visualize.py curves work_dirs/demo/pretrain_{simclr,gim,loco}
    python tools/visualize.py units configs/pretrain/{simclr,gim,loco}_resnet50_imagenet.py
    python tools/visualize.py costs resnet50 presnet50
    python tools/visualize.py COMMAND --help

Files go to --out; their names and what each figure shows are printed on stdout as JSON. docs/figures.md shows all of them.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import check_data_root, check_exist, command, tool_parser
from pretrain.eval.arguments import CHECKPOINT_HELP, add_input_arguments, check_checkpoints, encoder_of, source_of
from pretrain.results.files import check_any_results

if TYPE_CHECKING:
    # imported here, for it takes seconds: --help and wrong options do not wait for it
    from pretrain.figures.style import Drawing

DEFAULT_OUT = "work_dirs/figures"
COMMANDS = {
    "curves": "losses and metrics of every unit, kept pairs among them, learning rate and images/s over epochs",
    "units": "the learning rule: blocks, units, heads, and how far down each gradient flows",
    "costs": "FLOPs and memory of every stage, and what local learning saves of a step's memory",
    "embed": "t-SNE of an encoder's features, with kNN accuracy and silhouette of the classes",
    "probes": "accuracy of linear probes by depth",
    "spectrum": "singular values of the features' covariance, and effective rank",
    "detections": "boxes, masks and scores beside the ground truth, one backbone per column",
    "ap": "AP of boxes and masks by method and data set, with every split",
}
PATHS = {  # what the arguments of a sub-command are
    "curves": ("WORK_DIR", "of tools/pretrain.py, finished or not, or folders above some"),
    "units": ("CONFIG|WORK_DIR|CHECKPOINT", "pretraining configs, work directories, checkpoints or exported backbones"),
    "costs": ("ENCODER", "registered encoders, or timm/NAME"),
    "embed": ("CHECKPOINT", f"{CHECKPOINT_HELP}: a panel each"),
    "probes": ("PATH", "files of tools/analyze.py probes, or folders above some"),
    "spectrum": ("PATH", "files of tools/analyze.py spectrum, or folders above some"),
    "detections": ("RUN_DIR|CHECKPOINT", "run directories of tools/train_det.py, or checkpoints in them: a column each"),
    "ap": ("RUN_DIR", "run directories of tools/train_det.py, or folders above"),
}


def add_options(name: str, parser: ArgumentParser) -> None:
    """Adds the options of a sub-command."""
    metavar, text = PATHS[name]
    parser.add_argument("paths", nargs="+", metavar=metavar, help=text)
    parser.add_argument("--out", metavar="DIR", default=DEFAULT_OUT, help="where files go (default: %(default)s)")
    if name == "costs":
        parser.add_argument("--image-size", type=int, default=224, metavar="PIXELS", help="default: %(default)s")
        parser.add_argument("--batch-size", type=int, default=32, metavar="N",
                            help="images of a step, of two views each (default: %(default)s)")
    if name == "embed":
        parser.add_argument("--stage", metavar="NAME", help="whose features are embedded, such as res4 (default: the last)")
        parser.add_argument("--split", metavar="NAME", help="of the images (default: the one that evaluations test on)")
        parser.add_argument("--classes", nargs="+", metavar="NAME", help="default: the first ten by name")
        parser.add_argument("--num", type=int, default=500, metavar="N",
                            help="images, as many of each class as can be (default: %(default)s)")
        add_input_arguments(parser)
    if name == "detections":
        parser.add_argument("--images", nargs="+", type=int, metavar="ID", help="validation images (default: random ones)")
        parser.add_argument("--num", type=int, default=4, metavar="N", help="how many random ones (default: %(default)s)")
        parser.add_argument("--split", type=int, default=0, metavar="N", help="whose detector (default: %(default)s)")
        parser.add_argument("--score", type=float, default=0.3, metavar="S",
                            help="show objects of at least this score (default: %(default)s)")
        parser.add_argument("--most", type=int, default=8, metavar="N",
                            help="show at most this many objects of an image, the best ones (default: %(default)s)")
        parser.add_argument("--data-root", metavar="DIR", help="where the data set is (default: where it was in training)")


def draw(name: str, args: Namespace) -> Mapping[str, Drawing]:
    """The figures of a sub-command by name; what draws is imported here, for it takes seconds."""
    if name == "curves":
        from pretrain.figures.curves import draw_curves

        return draw_curves(args.paths)
    if name == "units":
        from pretrain.figures.units import draw_units

        return {"units": draw_units(args.paths)}
    if name == "costs":
        from pretrain.engine.cli import parse_encoder
        from pretrain.figures.costs import draw_memory_savings, draw_stage_costs

        encoders = {path: parse_encoder(path) for path in args.paths}
        return {"costs_stages": draw_stage_costs(encoders, args.image_size),
                "costs_memory": draw_memory_savings(encoders, args.batch_size, args.image_size)}
    if name == "embed":
        from pretrain.figures.embedding import ImageChoice, draw_embedding

        choice = ImageChoice(source_of(args), args.data_root, args.split, args.classes, args.num, args.seed)
        return {"embed": draw_embedding(args.paths, choice, args.stage, encoder_of(args), args.image_size, args.device,
                                        args.workers)}
    if name == "probes":
        from pretrain.figures.analyses import draw_probes

        return {"probes": draw_probes(args.paths)}
    if name == "spectrum":
        from pretrain.figures.analyses import draw_spectrum

        return {"spectrum": draw_spectrum(args.paths)}
    if name == "detections":
        from loco_det.figures.detections import draw_detections

        return {"detections": draw_detections(args.paths, args.images, args.num, args.split, args.score, args.most,
                                              args.data_root)}
    from loco_det.figures.ap_bars import draw_ap

    return {"ap": draw_ap(args.paths)}


@command
def main() -> str:
    parser = tool_parser(__doc__)
    subparsers = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, text in COMMANDS.items():
        add_options(name, subparsers.add_parser(name, help=text, description=f"Draws {text}."))
    args = parser.parse_args()
    if args.command == "embed":
        check_checkpoints(args.paths, args.encoder)
        check_data_root(args.data_root)
    elif args.command != "costs":
        check_exist(args.paths, "", f" ({PATHS[args.command][1]})")
        check_any_results(args.paths)
    drawings = draw(args.command, args)
    from pretrain.figures.style import save_figure

    files = [file for name, drawing in drawings.items() for file in save_figure(drawing.figure, Path(args.out) / name)]
    captions = {name: drawing.caption for name, drawing in drawings.items()}
    return json.dumps({"files": list(map(str, files)), "captions": captions})


if __name__ == "__main__":
    main()
