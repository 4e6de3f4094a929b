"""Weighted k-nearest-neighbour classification with a frozen encoder's features, stage by stage.

    python tools/knn_eval.py work_dirs/pretrain/mine/epoch_100.pth --data cifar10 --data-root data/cifar10 --image-size 32
    python tools/knn_eval.py random --encoder resnet18 --encoder-options stem=small --data-root my/classes --image-size 32

The result is printed on stdout as JSON and written beside the checkpoint. docs/readout.md explains protocols and fields.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import command, tool_parser
from pretrain.eval.arguments import add_readout_arguments, run_readout


@command
def main() -> str:
    parser = tool_parser(__doc__)
    add_readout_arguments(parser)
    parser.add_argument("--k", type=int, default=200, help="number of neighbours (default: 200)")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the votes' weights (default: 0.07)")
    args = parser.parse_args()

    def make_method():
        from pretrain.eval.knn import NearestNeighbours

        return NearestNeighbours(k=args.k, temperature=args.temperature, batch_size=args.batch_size)

    return run_readout(args, make_method)


if __name__ == "__main__":
    main()
