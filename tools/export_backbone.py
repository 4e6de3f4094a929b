"""Exports the bare encoder of a pretraining checkpoint, with a record of its origin.

    python tools/export_backbone.py work_dirs/pretrain/loco_resnet18_demo/epoch_8.pth backbones/loco_resnet18_demo.pth

The record is printed on stdout as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import check_exist, command, tool_parser


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("checkpoint", help="an epoch_*.pth of tools/pretrain.py")
    parser.add_argument("out", help="file to write")
    args = parser.parse_args()
    check_exist([args.checkpoint], "checkpoint")
    # imported here, for it takes seconds: --help and wrong options do not wait for it
    from pretrain.engine.checkpoints import export_backbone

    return json.dumps(export_backbone(args.checkpoint, args.out))


if __name__ == "__main__":
    main()
