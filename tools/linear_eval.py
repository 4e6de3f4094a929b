"""Linear evaluation of a frozen encoder, stage by stage, or fine-tuning of it.

    python tools/linear_eval.py backbones/loco_resnet50.pth --data imagenet --data-root data/imagenet  # the paper's protocol
    torchrun --nproc-per-node 8 tools/linear_eval.py backbones/loco_resnet50.pth --data imagenet --data-root data/imagenet
    python tools/linear_eval.py epoch_100.pth --protocol cached --data cifar10 --data-root data/cifar10    # in minutes
    python tools/linear_eval.py epoch_100.pth --protocol adam --data stl10 --data-root data/stl10    # the second paper's
    python tools/linear_eval.py epoch_100.pth --protocol finetune --data-root my/classes   # {train,val}/<class>/<image>
    python tools/linear_eval.py random --encoder resnet50 --data-root my/classes           # a baseline
    python tools/linear_eval.py resnet50-19c8e357.pth --encoder resnet50 --data-root my/classes    # the supervised one

The result is printed on stdout as JSON and written beside the checkpoint. docs/readout.md explains protocols and fields.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import command, tool_parser
from pretrain.eval.arguments import add_readout_arguments, run_readout

# which options each protocol has, beside the batch size
OPTIONS = {"paper": ("epochs", "lr"), "cached": (), "adam": ("epochs", "lr", "weight_decay"),
           "finetune": ("epochs", "lr", "weight_decay")}


@command
def main() -> str:
    parser = tool_parser(__doc__)
    add_readout_arguments(parser)
    parser.add_argument("--protocol", choices=tuple(OPTIONS), default="paper",
                        help="paper: SGD on augmented images (default); cached: logistic regression on features that are "
                             "extracted once; adam: the second paper's, Adam on such features; finetune: the whole network")
    parser.add_argument("--epochs", type=int, metavar="N", help="default: 100; 200 for adam, 30 for finetune")
    parser.add_argument("--lr", type=float, help="default, at batch size 256: 30; 0.05 for finetune; for adam 1e-3")
    parser.add_argument("--weight-decay", type=float, metavar="X", help="of adam and finetune (default: 1e-6; 1e-4)")
    args = parser.parse_args()
    given = {name: value for name in ("epochs", "lr", "weight_decay") if (value := getattr(args, name)) is not None}
    for name in given:
        if name not in OPTIONS[args.protocol]:
            raise ValueError(f"--{name.replace('_', '-')} is not an option of the protocol {args.protocol!r}; leave it out")

    def make_method():
        from pretrain.eval.adam_probe import AdamLinearProbe
        from pretrain.eval.finetune import FineTuning
        from pretrain.eval.linear_probe import LinearProbe
        from pretrain.eval.logistic import CachedLinearProbe

        methods = {"paper": LinearProbe, "cached": CachedLinearProbe, "adam": AdamLinearProbe, "finetune": FineTuning}
        return methods[args.protocol](batch_size=args.batch_size, **given)

    return run_readout(args, make_method)


if __name__ == "__main__":
    main()
