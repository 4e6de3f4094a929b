"""Trains and evaluates Mask R-CNN on a pretrained backbone, one run a split, and averages the AP.

    python tools/train_det.py configs/mask_rcnn_loco_demo.py --pretrained backbones/loco.pth
    python tools/train_det.py configs/mask_rcnn_loco_coco10k.py --data-root /data/coco --splits 0 1
    torchrun --nproc_per_node 8 tools/train_det.py configs/mask_rcnn_loco_coco.py --launcher pytorch

A split that is finished is not run again. The log goes to stderr and to the work directory; the path of results.json is
printed on stdout.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.cli import add_config_arguments, command, load_config, tool_parser


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("config", help="a config such as configs/mask_rcnn_loco_coco10k.py")
    parser.add_argument("--splits", nargs="+", type=int, metavar="I", help="splits to run (default: all of the protocol)")
    parser.add_argument("--pretrained", metavar="PATH", help="backbone file instead of the config's")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none", help="how processes are started")
    add_config_arguments(parser, data_root_help="folder of the detection data set, instead of the config's")
    args = parser.parse_args()
    needed = ("model", "data", "protocol", "pretrained")
    config = load_config(args.config, args, default_work_dir="work_dirs", needed_keys=needed)
    from loco_det.experiment import RESULTS_FILE, run_experiment, use_data_root, use_pretrained

    config.launcher = args.launcher
    if args.data_root:
        use_data_root(config, args.data_root)
    if args.pretrained:
        use_pretrained(config, args.pretrained)
    run_experiment(config, args.splits, args.resume)
    return str(Path(config.work_dir) / RESULTS_FILE)


if __name__ == "__main__":
    main()
