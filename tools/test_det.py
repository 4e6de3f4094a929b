"""Evaluates a detector of tools/train_det.py on its config's validation set.

    python tools/test_det.py configs/mask_rcnn_loco_coco.py work_dirs/mask_rcnn_loco_coco/split_0/epoch_12.pth
    python tools/test_det.py configs/mask_rcnn_loco_coco.py epoch_12.pth --data-root /data/coco --dump predictions
    torchrun --nproc-per-node 8 tools/test_det.py configs/mask_rcnn_loco_coco.py epoch_12.pth

Needs the validation images and annotations only. The AP of boxes and masks, as far as the detector predicts them, and of
each class, on Cityscapes the official one, too, is printed on stdout as JSON, in points and unrounded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import Overrides, add_launcher_argument, check_exist, command, tool_parser

NEEDED_KEYS = ("model", "data", "pretrained", "val_dataloader", "val_cfg")


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="the config that it was trained with")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="an epoch_*.pth, or a state dict of the whole detector")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the detection data set, instead of the config's")
    backends = ("auto", "faster_coco_eval", "pycocotools")
    parser.add_argument("--backend", choices=backends, default="auto", help="library that computes COCO's AP; both "
                        "have the same numbers (default: faster_coco_eval where it is installed)")
    parser.add_argument("--dump", metavar="PREFIX", help="write the predictions to PREFIX.bbox.json and PREFIX.segm.json, "
                        "in COCO's result format")
    add_launcher_argument(parser)
    parser.add_argument("--cfg-options", nargs="+", action=Overrides, metavar="k=v", help="overrides of config values")
    parser.set_defaults(work_dir=None)
    args = parser.parse_args()
    from loco_det.experiment.inputs import load_experiment, missing_data, use_data_root

    config = load_experiment(args.config, args, "work_dirs", NEEDED_KEYS)
    if args.data_root:
        use_data_root(config, args.data_root)
    check_exist([args.checkpoint], "checkpoint")
    problem = missing_data(config, "val_ann", "val_images", "official_gt")
    if problem and "synthetic_data" not in config:  # that one is generated
        raise FileNotFoundError(problem)
    # imported here, for it takes seconds: --help, wrong options and missing files do not wait for it
    from loco_det.experiment.evaluate import evaluate_checkpoint
    from pretrain.distributed import comm

    comm.start_processes(args.launcher or comm.find_launcher())
    metrics = evaluate_checkpoint(config, args.checkpoint, args.dump, args.backend)
    comm.stop_processes()
    return json.dumps(metrics, allow_nan=False)


if __name__ == "__main__":
    main()
