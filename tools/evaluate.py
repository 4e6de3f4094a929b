"""Evaluates an encoder on labelled images: linear classifiers on every stage, nearest neighbours, or fine-tuning.

    python tools/evaluate.py backbones/loco_resnet50.pth --data imagenet --data-root data/imagenet     # LoCo's protocol
    torchrun --nproc-per-node 8 tools/evaluate.py backbones/loco_resnet50.pth --data imagenet --data-root data/imagenet
    python tools/evaluate.py epoch_100.pth --protocol knn --data cifar10 --data-root data/cifar10      # in a minute
    python tools/evaluate.py epoch_100.pth --protocol adam --data stl10 --data-root data/stl10         # the second paper's
    python tools/evaluate.py epoch_100.pth --protocol finetune --data-root my/classes      # {train,val}/<class>/<image>
    python tools/evaluate.py random --encoder resnet50 --data-root my/classes              # a baseline
    python tools/evaluate.py resnet50-19c8e357.pth --encoder resnet50 --data-root my/classes       # the supervised one

The result is printed on stdout as JSON and written beside the checkpoint.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import check_data_root, command, tool_parser
from pretrain.eval.arguments import (
    CHECKPOINT_HELP,
    add_autocast_argument,
    add_input_arguments,
    add_result_arguments,
    check_checkpoints,
    given,
)


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("file", metavar="CHECKPOINT", help=CHECKPOINT_HELP)
    parser.add_argument("--protocol", choices=("linear", "cached", "adam", "knn", "finetune"), default="linear",
                        help="linear: LoCo's, SGD on augmented images (default); cached: logistic regression on features "
                             "extracted once; adam: the second paper's, Adam on such features; knn: weighted nearest "
                             "neighbours; finetune: the whole network")
    parser.add_argument("--stage", metavar="NAME", help="all, last, or a stage such as res4 (default: all)")
    parser.add_argument("--train-split", metavar="NAME", help="default: the data set's own, train for a folder")
    parser.add_argument("--test-split", metavar="NAME", help="default: the data set's own, val or test for a folder")
    parser.add_argument("--limit", type=int, metavar="N", help="use a class-balanced subset of N training images")
    parser.add_argument("--batch-size", type=int, metavar="N",
                        help="images of a step (linear, adam, finetune), or those run through the encoder at once; of all "
                             "processes together (default: 256)")
    parser.add_argument("--epochs", type=int, metavar="N", help="default: 100; 200 for adam, 30 for finetune")
    parser.add_argument("--lr", type=float, help="default: 30 at batch size 256; 0.05 for finetune; 1e-3 for adam")
    parser.add_argument("--weight-decay", type=float, metavar="X", help="of adam and finetune (default: 1e-6; 1e-4)")
    parser.add_argument("--k", type=int, help="number of neighbours of knn (default: 200)")
    parser.add_argument("--temperature", type=float, metavar="TAU", help="of the votes' weights of knn (default: 0.07)")
    add_input_arguments(parser)
    add_autocast_argument(parser)
    add_result_arguments(parser)
    args = parser.parse_args()
    check_checkpoints([args.file], args.encoder)
    check_data_root(args.data_root)
    # imported here, for it takes seconds: --help and wrong options do not wait for it
    from pretrain.eval.evaluate import evaluate, launched

    with launched():
        return json.dumps(evaluate(**given(args)))


if __name__ == "__main__":
    main()
