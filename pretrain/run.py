"""Pretraining from a config on mmengine's Runner."""

from __future__ import annotations

import json
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, find_latest_checkpoint

import pretrain.data.dataset
import pretrain.hooks
import pretrain.learner  # these three register what configs name
from pretrain.checkpoints import RECORD_KEY, load_checkpoint
from pretrain.data.images import list_images
from pretrain.data.synthetic import SyntheticConfig, ensure_synthetic_dataset
from pretrain.work_dir import check_work_dir, claim_work_dir, git_revision


@HOOKS.register_module()
class PretrainingRecordHook(Hook):
    """Writes into every checkpoint what :func:`pretrain.checkpoints.export_backbone` passes on, and keeps it plain data.

    mmengine would pickle objects of its message hub, the smoothed histories of logged values, into the file. Without them
    anybody can load it with ``weights_only=True``; a resumed run smooths its log anew.

    Args:
        config_sha256: fingerprint of the config.
        encoder: the encoder's config.
        rule: the learning rule's config.
    """

    def __init__(self, config_sha256: str, encoder: dict, rule: object) -> None:
        record = {"rule": rule, "encoder": encoder, "config_sha256": config_sha256, "git_revision": git_revision()}
        self.record = json.loads(json.dumps(record))  # ConfigDict -> dict

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """See :class:`mmengine.hooks.Hook`."""
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}
        checkpoint[RECORD_KEY] = {**self.record, "epoch": checkpoint["meta"]["epoch"], "iter": checkpoint["meta"]["iter"]}


def use_image_folder(config: Config, data_root: str) -> None:
    """Makes ``config`` pretrain on the images below ``data_root`` instead of those it names (in place)."""
    config.train_dataloader.dataset.data_root = data_root
    config.pop("synthetic_data", None)


def pretrain(config: Config, resume: bool = False) -> Path:
    """Runs or continues one pretraining.

    Args:
        config: resolved config with ``work_dir`` set.
        resume: continue from the work directory's last checkpoint; with none there, start.

    Returns:
        The last checkpoint.

    Raises:
        ValueError: the work directory holds a run of another config, or checkpoints of this one while ``resume`` is off;
            or the model, rule or data do not fit together. All before training starts.
    """
    plain = config.to_dict()
    work_dir = Path(config.work_dir)
    sha256 = check_work_dir(work_dir, plain)
    last = find_latest_checkpoint(str(work_dir))
    if last is not None:
        if not resume:
            raise ValueError(f"{work_dir} already holds {Path(last).name}; pass --resume to continue or choose another "
                             "--work-dir")
        load_checkpoint(last)  # a damaged file is named before anything is built
    if "synthetic_data" in plain:
        options = dict(plain["synthetic_data"])
        ensure_synthetic_dataset(Path(options.pop("root")), SyntheticConfig(**options))
    list_images(plain["train_dataloader"]["dataset"]["data_root"])  # the Runner builds the data only when it trains
    model = plain["model"]
    record = dict(type="PretrainingRecordHook", config_sha256=sha256, encoder=model["encoder"], rule=model["rule"])
    runner = Runner.from_cfg(Config(dict(plain, resume=resume, custom_hooks=[*plain.get("custom_hooks", []), record])))
    claim_work_dir(work_dir, plain)
    runner.train()
    return Path(find_latest_checkpoint(str(work_dir)))
