"""Pretrains an encoder with a learning rule.

    python tools/pretrain.py                                            # LoCo on the embedded synthetic data set
    python tools/pretrain.py configs/pretrain/gim_resnet18_demo.py
    python tools/pretrain.py configs/pretrain/loco_resnet18_folder.py --data-root my/images --work-dir work_dirs/mine
    python tools/pretrain.py CONFIG --resume                            # continue from the last checkpoint
    python tools/pretrain.py CONFIG --show-units                        # draw the learning rule, train nothing
    torchrun --nproc-per-node 8 tools/pretrain.py configs/pretrain/loco_resnet50_imagenet.py --data-root imagenet
    srun python tools/pretrain.py CONFIG --launcher slurm --resume      # one task per GPU

The batch size of a config is that of all processes together.
The log goes to stderr and to the work directory; the path of the last checkpoint is printed on stdout.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from pretrain.engine.cli import (
    add_config_arguments,
    add_launcher_argument,
    check_data_root,
    command,
    load_config,
    note,
    tool_parser,
)
from pretrain.local.units import check_rule_name

NEEDED_KEYS = ("model.rule", "train_dataloader", "optim_wrapper", "train_cfg.max_epochs")
DEFAULT_CONFIG = "configs/pretrain/loco_resnet18_demo.py"
REGISTRATION = "pretrain.run"  # imports torch, which takes seconds: an unknown rule must not wait for it


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("config", nargs="?", help=f"config file (default: {DEFAULT_CONFIG})")
    add_config_arguments(parser, data_root_help="a folder of images, or the root of the config's data set")
    add_launcher_argument(parser)
    parser.add_argument("--show-units", action="store_true",
                        help="print the encoder's blocks, the local units and their heads, and train nothing")
    args = parser.parse_args()
    if args.config is None and not args.show_units:
        note(f"no CONFIG given: pretraining LoCo on the embedded synthetic data set ({DEFAULT_CONFIG})")
    config = load_config(args.config or DEFAULT_CONFIG, args, default_work_dir="work_dirs/pretrain", needed_keys=NEEDED_KEYS)
    check_rule(config)
    if args.show_units:
        from pretrain.figures.unit_text import model_of_config, units_as_text

        return units_as_text(model_of_config(config))
    if args.data_root or "synthetic_data" not in config:  # that one is generated
        check_data_root(args.data_root or config.train_dataloader.dataset.data_root)
    # imported here, for it takes seconds: --help and wrong options do not wait for it
    from pretrain.distributed.comm import find_launcher
    from pretrain.run import pretrain

    return str(pretrain(config, resume=args.resume, data_root=args.data_root, launcher=args.launcher or find_launcher()))


def check_rule(config: Config) -> None:
    """Refuses an unknown learning rule; those of the user's own modules are known."""
    imports = config.get("custom_imports", {}).get("imports", [])
    import_modules_from_strings([name for name in imports if name != REGISTRATION])
    check_rule_name(config.model.rule)


if __name__ == "__main__":
    main()
