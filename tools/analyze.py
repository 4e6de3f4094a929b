"""Looks into pretrained encoders: accuracy after every block, spectra of features, pairs that were kept, memory of a step.

    python tools/analyze.py work_dirs/pretrain/mine/epoch_100.pth --what probes --data cifar10 --data-root data/cifar10
    python tools/analyze.py work_dirs/pretrain/*/epoch_100.pth --what spectrum --data-root my/images   # without labels
    python tools/analyze.py random --encoder resnet18 --what spectrum --data-root my/images --image-size 32
    python tools/analyze.py work_dirs/pretrain/mine/epoch_100.pth random --what spectrum --data-root my/images   # alike
    python tools/analyze.py work_dirs/pretrain/mine/epoch_100.pth --what kept       # from the training log beside it
    python tools/analyze.py configs/pretrain/subsampling/k16_simclr_resnet50_cifar10.py --what memory  # without a training

Prints {"what": ..., "runs": [...]} with a record for each checkpoint, which is also written beside the checkpoint.
Of several checkpoints, those that cannot be analyzed are reported and left out; the exit code is then 1.
docs/subsampling.md explains the fields, and tools/visualize.py draws them.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import command, tool_parser
from pretrain.eval.arguments import add_analysis_arguments, run_analyses


@command
def main() -> str:
    parser = tool_parser(__doc__)
    add_analysis_arguments(parser)
    return run_analyses(parser.parse_args())


if __name__ == "__main__":
    main()
