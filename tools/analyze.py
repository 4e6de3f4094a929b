"""Looks into pretrained encoders and their pretraining.

    python tools/analyze.py probes work_dirs/pretrain/mine/epoch_100.pth --data cifar10 --data-root data/cifar10
    python tools/analyze.py spectrum work_dirs/pretrain/*/epoch_100.pth --data-root my/images       # without labels
    python tools/analyze.py spectrum work_dirs/pretrain/mine/epoch_100.pth random --data-root my/images   # beside random
    python tools/analyze.py kept work_dirs/pretrain/mine/epoch_100.pth          # from the training log beside it
    python tools/analyze.py memory configs/pretrain/decoupled_resnet50_cifar10.py      # without a training
    python tools/analyze.py collapse --thresholds 0.0 0.4 0.8 --seed 1

All but collapse print {"what": ..., "runs": [...]} with a record for each checkpoint, which is also written beside it;
tools/visualize.py draws them. collapse prints a table of a toy model (Subsampling, section 3.2 and figure 1a), trained with
each threshold and without one, until every singular value changes by less than 1 % in 100 steps or steps run out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import check_data_root, check_exist, command, tool_parser
from pretrain.eval.arguments import (
    CHECKPOINT_HELP,
    add_autocast_argument,
    add_input_arguments,
    add_result_arguments,
    check_checkpoints,
    given,
)

LIKE_FIRST = f"{CHECKPOINT_HELP}; random after another file has its encoder and view size"


@command
def main() -> str:
    parser = tool_parser(__doc__)
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    _add_probes(commands.add_parser("probes", help="accuracy of linear classifiers after every block"))
    _add_spectrum(commands.add_parser("spectrum", help="of the covariance of features, after every stage or block"))
    kept = commands.add_parser("kept", help="shares of pairs that subsampling kept over the pretraining")
    kept.add_argument("files", nargs="+", metavar="CHECKPOINT", help="of tools/pretrain.py, in its work directory")
    add_result_arguments(kept)
    _add_memory(commands.add_parser("memory", help="of a pretraining step, and multiply-adds of every unit"))
    _add_collapse(commands.add_parser("collapse", help="of a toy model's dimensions, with and without subsampling"))
    options = given(parser.parse_args())
    what = options.pop("what")
    if what in ("probes", "spectrum"):
        check_checkpoints(options["files"], options.get("encoder"))
        check_data_root(options["data_root"])
    else:
        check_exist(options.get("files", []), "checkpoint")
    return _collapse(**options) if what == "collapse" else _analyze(what, **options)


def _add_probes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="CHECKPOINT", help=LIKE_FIRST)
    parser.add_argument("--protocol", choices=("adam", "cached"), help="as of tools/evaluate.py (default: adam)")
    parser.add_argument("--epochs", type=int, metavar="N", help="of adam (default: 200)")
    parser.add_argument("--batch-size", type=int, metavar="N",
                        help="images of a step of Adam, and images run through the encoder at once (default: 256)")
    parser.add_argument("--train-split", metavar="NAME", help="default: the data set's own, train for a folder")
    parser.add_argument("--test-split", metavar="NAME", help="default: the data set's own, val or test for a folder")
    parser.add_argument("--limit", type=int, metavar="N", help="use a class-balanced subset of N training images")
    add_input_arguments(parser)
    add_autocast_argument(parser)
    add_result_arguments(parser)


def _add_spectrum(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="CHECKPOINT", help=LIKE_FIRST)
    parser.add_argument("--points", choices=("stages", "blocks"), help="after each of which (default: stages)")
    parser.add_argument("--split", metavar="NAME", help="default: the data set's test split, or all images")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images run through the encoder at once (default: 256)")
    parser.add_argument("--limit", type=int, metavar="N", help="use a random subset of N images")
    add_input_arguments(parser)
    add_autocast_argument(parser)
    add_result_arguments(parser)


def _add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="CHECKPOINT", help="of tools/pretrain.py, or a pretraining config")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images of a step (default: the pretraining's)")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the views (default: the pretraining's)")
    add_autocast_argument(parser, "the pretraining's")
    add_result_arguments(parser)


def _add_collapse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.0, 0.6, 0.75, 0.8, 0.9], metavar="T",
                        help="cosine similarities, -1 to 1, below which pairs are dropped (default: 0.0 0.6 0.75 0.8 0.9)")
    parser.add_argument("--dim", type=int, metavar="D", help="dimensions, half of them noisy (default: 16)")
    parser.add_argument("--sigma", type=float, help="standard deviation of the noise (default: 1.5)")
    parser.add_argument("--num-points", type=int, metavar="N", help="points of two views (default: 256)")
    parser.add_argument("--steps", type=int, help="of gradient descent at most (default: 1000)")
    parser.add_argument("--lr", type=float, help="of gradient descent (default: 3)")
    parser.add_argument("--temperature", type=float, help="of the loss (default: 0.5)")
    parser.add_argument("--seed", type=int, help="of points, noise and start (default: 0)")
    parser.add_argument("--format", choices=("markdown", "json"), default="markdown", help="default: markdown")


def _analyze(what: str, files: list[str], **options: object) -> str:
    from pretrain.eval.analysis import analyze  # torch takes seconds: --help and wrong options do not wait for it
    from pretrain.eval.evaluate import launched

    with launched():
        return json.dumps(analyze(what, files, **options))


def _collapse(thresholds: list[float], format: str, **problem: float) -> str:
    from pretrain.eval.collapse import ToyProblem, compare_thresholds, format_table  # takes seconds

    results = compare_thresholds(ToyProblem(**problem), thresholds)
    if format == "json":
        return json.dumps({name: dataclasses.asdict(result) for name, result in results.items()}, indent=2, allow_nan=False)
    return format_table(ToyProblem(**problem), results)


if __name__ == "__main__":
    main()
