"""Trains and evaluates Mask R-CNN on pretrained backbones, one run for each split; tools/table.py averages the AP.

    python tools/train_det.py configs/mask_rcnn_coco10k.py --pretrained backbones/mine.pth       # any backbone file
    python tools/train_det.py configs/mask_rcnn_loco_demo.py --pretrained backbones/loco.pth     # one that LoCo has trained
    python tools/train_det.py configs/mask_rcnn_loco_coco10k.py --data-root /data/coco --splits 0 1
    torchrun --nproc-per-node 8 tools/train_det.py configs/mask_rcnn_loco_coco.py                # all processes on each run
    for i in 0 1 2 3; do CUDA_VISIBLE_DEVICES=$i python tools/train_det.py CONFIG --splits $i & done    # one split per GPU

The batch size of a config is that of all processes together. A split that is finished is not run again, nor one that another
process is training; with --resume, one that was begun goes on from its last checkpoint. A run that fails does not keep the
others from being carried out, except within torchrun or SLURM. Of several configs, each has a directory of its own below
--work-dir. The log goes to stderr and to the work directory; the path of each experiment's run.json is printed on stdout,
beside which those of its splits are.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import add_config_arguments, add_launcher_argument, command, tool_parser


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="a config such as configs/mask_rcnn_loco_coco10k.py")
    parser.add_argument("--splits", nargs="+", type=int, metavar="I", help="splits to run (default: all of the protocol)")
    parser.add_argument("--pretrained", metavar="FILE", help="backbone file instead of the config's")
    add_launcher_argument(parser)
    add_config_arguments(parser, data_root_help="folder of the detection data set, instead of the config's")
    args = parser.parse_args()
    from loco_det.experiment.inputs import detection_configs

    configs = detection_configs(args)  # what is missing is reported before libraries of detection are imported
    from loco_det.experiment.experiment import run_experiments
    from pretrain.distributed.comm import find_launcher

    launcher = args.launcher or find_launcher()
    return "\n".join(map(str, run_experiments(configs, args.splits, args.resume, launcher)))


if __name__ == "__main__":
    main()
