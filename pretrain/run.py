"""Pretraining from a config on mmengine's Runner."""

from __future__ import annotations

import json
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

import pretrain.checkpoint_hook
import pretrain.data.batched_views
import pretrain.data.dataset
import pretrain.data.resident
import pretrain.data_parallel
import pretrain.hooks
import pretrain.learner
import pretrain.loops
import pretrain.monitoring
import pretrain.optimizers
import pretrain.sequential  # these register what configs name
from pretrain import distributed
from pretrain.checkpoint_files import checkpoint_files, checkpoint_name, newest_intact
from pretrain.checkpoints import RECORD_KEY, load_checkpoint
from pretrain.data.synthetic import ensure_configured
from pretrain.learning_rates import check_schedule, resolve_lr
from pretrain.optimizers import check_no_accumulation
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
        soft_sharing: options of soft sharing, where units own copies of shared stages.
        epochs_per_unit: epochs of each unit, where they are trained one after the other.
        decoder: options of the decoders.
        max_epochs: epochs of the whole schedule.
    """

    def __init__(
        self,
        config_sha256: str,
        encoder: dict,
        rule: object,
        soft_sharing: dict | None = None,
        epochs_per_unit: int | None = None,
        decoder: dict | None = None,
        max_epochs: int | None = None,
    ) -> None:
        record = {"rule": rule, "encoder": encoder, "config_sha256": config_sha256, "git_revision": git_revision()}
        optional = dict(soft_sharing=soft_sharing, epochs_per_unit=epochs_per_unit, decoder=decoder, max_epochs=max_epochs)
        record |= {key: value for key, value in optional.items() if value is not None}
        self.record = json.loads(json.dumps(record))  # ConfigDict -> dict

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """See :class:`mmengine.hooks.Hook`."""
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}
        checkpoint[RECORD_KEY] = {**self.record, "epoch": checkpoint["meta"]["epoch"], "iter": checkpoint["meta"]["iter"]}


def use_data_root(config: Config, data_root: str) -> None:
    """Makes ``config`` look for its images below ``data_root`` instead of where it says (in place)."""
    dataset = config.train_dataloader.dataset
    dataset.data_root = data_root
    if "cache" in dataset:
        dataset.cache = False  # a folder of unknown size need not fit into memory
    config.pop("synthetic_data", None)


def pretrain(config: Config, resume: bool = False, launcher: str = "none") -> Path:
    """Runs or continues one pretraining, in every process of a launcher.

    Args:
        config: resolved config with ``work_dir`` set. Its batch size is the global one, whatever the number of processes.
        resume: continue from the work directory's newest intact checkpoint; with none there, start; a finished run is left
            as it is.
        launcher: ``"none"`` for a single process, or one of :data:`pretrain.distributed.LAUNCHERS`.

    Returns:
        The last checkpoint.

    Raises:
        ValueError: the work directory holds a run of another config, or checkpoints of this one while ``resume`` is off;
            or the model, rule or data do not fit together; or every checkpoint to resume from is damaged. All before
            training starts.
        RunInterrupted: a signal asked the run to stop; it is saved.
    """
    distributed.start_processes(launcher)
    plain = config.to_dict()
    import_modules_from_strings(**plain.get("custom_imports", {"imports": []}))
    with distributed.first_process_first():
        ensure_configured(plain)
    dataset = plain["train_dataloader"]["dataset"]
    dataset["data_root"] = str(Path(dataset["data_root"]).resolve())
    work_dir = Path(config.work_dir)
    sha256 = check_work_dir(work_dir, plain)
    checkpoint, damaged = _checkpoint_to_resume(work_dir, resume, sha256)
    if checkpoint is not None and checkpoint.name == checkpoint_name(plain["train_cfg"]["max_epochs"]):
        distributed.stop_processes()
        return checkpoint
    model = plain["model"]
    record = dict(type="PretrainingRecordHook", config_sha256=sha256, encoder=model["encoder"], rule=model["rule"],
                  soft_sharing=model.get("soft_sharing"), epochs_per_unit=_epochs_per_unit(plain),
                  decoder=model.get("decoder"), max_epochs=plain["train_cfg"]["max_epochs"])
    hooks = [*plain.get("custom_hooks", []), record]
    start = {} if checkpoint is None else dict(resume=True, load_from=str(checkpoint))
    runner = Runner.from_cfg(Config(dict(share_of_process(plain), **start, custom_hooks=hooks, launcher=launcher)))
    for message in damaged:
        runner.logger.warning(f"passed over a checkpoint: {message}")
    with distributed.first_process_first():
        assert runner.train_loop is not None  # builds the data set, which may refuse its options
    num_images, batch_size = len(runner.train_dataloader.dataset), plain["train_dataloader"]["batch_size"]
    if num_images < batch_size:
        raise ValueError(f"{dataset['data_root']} holds {num_images} images, fewer than a batch of {batch_size}; add images "
                         "or lower train_dataloader.batch_size with --cfg-options")
    for hook in runner.hooks:
        if hasattr(hook, "check"):  # ours, which may refuse the run
            hook.check(runner)
    if distributed.rank() == 0:
        claim_work_dir(work_dir, plain)
    runner.train()
    distributed.stop_processes()
    return checkpoint_files(work_dir)[0]


def share_of_process(config: dict) -> dict:
    """What one of the processes is to do of a config: its part of the batch, at the learning rate of the whole batch.

    Raises:
        ValueError: the batch is of one image or cannot be divided, the learning rate is ambiguous, the schedule does not fit
            the run, or gradients are to be accumulated.
    """
    batch_size, world_size = config["train_dataloader"]["batch_size"], distributed.world_size()
    if batch_size < 2:
        raise ValueError(f"train_dataloader.batch_size is {batch_size}; contrastive losses need at least 2 images, each "
                         "other's negatives")
    if batch_size % world_size:
        raise ValueError(f"train_dataloader.batch_size is {batch_size}, the batch of all processes together, which "
                         f"{world_size} processes cannot share evenly; choose a multiple of {world_size}")
    check_no_accumulation(config["optim_wrapper"])
    check_schedule(config["param_scheduler"], config["train_cfg"]["max_epochs"])
    share = dict(
        config,
        train_dataloader=dict(config["train_dataloader"], batch_size=batch_size // world_size),
        optim_wrapper=resolve_lr(config["optim_wrapper"], batch_size),
    )
    return dict({"model_wrapper_cfg": dict(type="DataParallelLearner")}, **share) if world_size > 1 else share


def _epochs_per_unit(config: dict) -> int | None:
    hooks = [hook for hook in config.get("custom_hooks", []) if hook["type"] == "SequentialUnitsHook"]
    return hooks[0]["epochs_per_unit"] if hooks else None


def _checkpoint_to_resume(work_dir: Path, resume: bool, config_sha256: str) -> tuple[Path | None, list[str]]:
    """The newest intact checkpoint, and messages about damaged ones that are newer.

    Raises:
        ValueError: there are checkpoints, but ``resume`` is off, all are damaged, or they are of another config.
    """
    files = checkpoint_files(work_dir)
    if not files:
        return None, []
    if not resume:
        raise ValueError(f"{work_dir} already holds {files[0].name}; pass --resume to continue or choose another --work-dir")
    checkpoint, damaged = newest_intact(work_dir)
    if checkpoint is None:
        raise ValueError(f"{work_dir} holds no checkpoint to resume from: {'; '.join(damaged)}; put an intact one there or "
                         "choose another --work-dir")
    if load_checkpoint(checkpoint)[RECORD_KEY].get("config_sha256") != config_sha256:
        raise ValueError(f"{checkpoint} is of a run of a different config; choose another --work-dir")
    return checkpoint, damaged
