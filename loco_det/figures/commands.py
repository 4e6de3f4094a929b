"""The sub-commands of tools/visualize.py that show detection; like pretraining's, they import what draws when they run."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from pretrain.engine.cli import note
from pretrain.figures.commands import Command

if TYPE_CHECKING:
    from pretrain.figures.style import Drawing


def _detections_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("detectors", nargs="+", metavar="RUN_DIR|CHECKPOINT",
                        help="run directories of tools/train_det.py, or checkpoints in them: a column each")
    parser.add_argument("--images", nargs="+", type=int, metavar="ID", help="validation images (default: random ones)")
    parser.add_argument("--num", type=int, default=4, metavar="N", help="how many random ones (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the random ones (default: 0)")
    parser.add_argument("--split", type=int, default=0, metavar="N", help="of the run directories (default: 0)")
    parser.add_argument("--score", type=float, default=0.3, metavar="S",
                        help="show objects of at least this score (default: 0.3)")
    parser.add_argument("--most", type=int, default=8, metavar="N",
                        help="show at most this many objects of an image, the best ones (default: 8)")
    parser.add_argument("--data-root", metavar="DIR", help="where the data set is (default: where it was in training)")
    parser.add_argument("--device", default="auto", help="default: cuda where there is one, otherwise cpu")


def _detections(args: Namespace) -> dict[str, Drawing]:
    from loco_det.figures.detections import draw_detections

    drawing = draw_detections(
        args.detectors, image_ids=args.images, count=args.num, seed=args.seed, split=args.split, score_threshold=args.score,
        most=args.most, data_root=args.data_root, device=args.device,
    )
    for detector in drawing.numbers["detectors"]:
        if not any(detector["detections"]):
            best = max((score for score in detector["best_scores"] if score is not None), default=0.0)
            note(f"{detector['checkpoint']} finds nothing of a score of at least {args.score:g} (best {best:.2g}); try a "
                 "lower --score")
    return {"detections": drawing}


def _ap_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="run directories of tools/train_det.py, or folders above")


def _ap(args: Namespace) -> dict[str, Drawing]:
    from loco_det.figures.ap_bars import draw_ap

    return {"ap": draw_ap(args.runs)}


COMMANDS = (
    Command("detections", "boxes, masks and scores beside the ground truth, one backbone per column",
            _detections_arguments, _detections),
    Command("ap", "AP of boxes and masks by method and data set, with every split", _ap_arguments, _ap),
)
