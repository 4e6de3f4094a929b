"""Pretraining from a config on mmengine's Runner."""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

import pretrain.data.dataset
import pretrain.data.device_views
import pretrain.data.in_memory
import pretrain.distributed.data_parallel
import pretrain.engine.hooks
import pretrain.engine.loop
import pretrain.learner
import pretrain.local.sequential  # these register what configs name
from pretrain.data.synthetic import ensure_configured
from pretrain.distributed import comm
from pretrain.engine.checkpoints import RECORD_KEY, checkpoint_files, checkpoint_name, load_checkpoint, newest_intact
from pretrain.engine.claim import claim_run
from pretrain.engine.optimizers import check_no_accumulation, check_schedule, resolve_lr
from pretrain.engine.work_dir import RECORD_NAME, check_work_dir, config_fingerprint, init_work_dir
from pretrain.errors import RunInterrupted
from pretrain.eval.monitor import KnnMonitorHook
from pretrain.learner import check_model
from pretrain.local.sequential import learner_of
from pretrain.options import build_with_options
from pretrain.results.files import RecordError
from pretrain.results.method import dataset_name, epochs_per_unit, method_of_learner, setting_of_config
from pretrain.results.store import PRETRAINING, measurement, new_record, read_record, write_record
from pretrain.results.training_log import read_training_log

DEFAULT_WORK_DIR = "work_dirs/pretrain"


class _Resumed(NamedTuple):
    """The checkpoint to resume from: its path, and seed and number of images of its run."""

    path: Path
    seed: int
    images: int


def use_data_root(config: Config, data_root: str) -> None:
    """Makes ``config`` look for its images below ``data_root`` (in place)."""
    dataset = config.train_dataloader.dataset
    dataset.data_root = data_root
    if "cache" in dataset:
        dataset.cache = False  # a folder of unknown size need not fit into memory
    config.pop("synthetic_data", None)


def pretrain(
    config: str | Path | Config,
    work_dir: str | Path | None = None,
    resume: bool = False,
    data_root: str | Path | None = None,
    launcher: str = "none",
) -> Path:
    """Runs or continues one pretraining, in every process of a launcher.

    Args:
        config: a config or its file. Its batch size is the global one, whatever the number of processes.
        work_dir: of checkpoints, logs and the record; by default the config's, or one of its name below
            :data:`DEFAULT_WORK_DIR`.
        resume: continue from the work directory's newest intact checkpoint; with none there, start; a finished run is left
            as it is.
        data_root: where the images are, instead of where the config says.
        launcher: ``"none"`` for a single process, or one of :data:`pretrain.distributed.comm.LAUNCHERS`.

    Returns:
        The last checkpoint.

    Raises:
        ValueError: the work directory holds checkpoints of another config, or of this one while ``resume`` is off; or the
            model, rule, optimizer, schedule or data do not fit together; or every checkpoint to resume from is damaged; all
            before training starts.
        RunInterrupted: a signal asked the run to stop; it is saved.
        RunFailedError: another process is at work in the work directory, or the run cannot go on.
    """
    comm.start_processes(launcher)
    plain = _resolve(config, work_dir, data_root)
    with claim_run(plain["work_dir"]) if comm.rank() == 0 else nullcontext():
        return _pretrain(plain, resume, launcher)


def _pretrain(plain: dict, resume: bool, launcher: str) -> Path:
    """:func:`pretrain` of a resolved config."""
    work_dir, identity = Path(plain["work_dir"]), _identity(plain)
    _check_kind(work_dir)
    begun = bool(checkpoint_files(work_dir))  # without a checkpoint the directory is free for another try
    sha256 = check_work_dir(work_dir, identity) if begun else config_fingerprint(identity)[0]
    resumed, damaged = _checkpoint_to_resume(work_dir, resume, sha256)
    if resumed is not None and resumed.path.name == checkpoint_name(plain["train_cfg"]["max_epochs"]):
        record_file = work_dir / RECORD_NAME
        if comm.rank() == 0 and record_file.exists() and not read_record(record_file).content["rows"]:
            _finish_record(work_dir, None)  # it was stopped between checkpoint and record
        comm.stop_processes()
        return resumed.path
    runner = _build_runner(plain, resumed, launcher)
    record = _record(runner, plain)
    carried = {key: record[key] for key in ("method", "setting", "repetition", "git_revision")}
    runner.register_hook(dict(type="RecordHook", key=RECORD_KEY, record={**carried, "config_sha256": sha256}))
    for message in damaged:
        runner.logger.warning(f"skipped a checkpoint: {message}")
    if comm.rank() == 0:
        if not begun:
            (work_dir / RECORD_NAME).unlink(missing_ok=True)
        init_work_dir(work_dir, identity, record)
    _train(runner, work_dir)
    return checkpoint_files(work_dir)[0]


def _train(runner: Runner, work_dir: Path) -> None:
    began, interrupted = time.monotonic(), None
    try:
        runner.train()
    except RunInterrupted as error:
        interrupted = error
    if comm.rank() == 0:
        _finish_record(work_dir, time.monotonic() - began)
    comm.stop_processes()  # all processes at once; one that ends with its group open may abort
    if interrupted is not None:
        raise interrupted


def _resolve(config: str | Path | Config, work_dir: str | Path | None, data_root: str | Path | None) -> dict:
    """The config as plain data with its places, with what it names registered and its synthetic data made."""
    config = copy.deepcopy(config) if isinstance(config, Config) else Config.fromfile(config, import_custom_modules=False)
    if data_root is not None:
        use_data_root(config, str(data_root))
    plain = config.to_dict()
    import_modules_from_strings(**plain.get("custom_imports", {"imports": []}))
    check_model(plain["model"])
    with comm.main_process_first():
        ensure_configured(plain)
    dataset = plain["train_dataloader"]["dataset"]
    dataset["data_root"] = str(Path(dataset["data_root"]).resolve())
    plain["work_dir"] = str(work_dir or plain.get("work_dir") or Path(DEFAULT_WORK_DIR, Path(config.filename).stem))
    return plain


def _identity(config: dict) -> dict:
    """The config without the place where its images are, which may be another one when the run is resumed."""
    loader = config["train_dataloader"]
    dataset = dict(loader["dataset"], data_root=Path(loader["dataset"]["data_root"]).name)
    return dict(config, train_dataloader=dict(loader, dataset=dataset))


def _check_kind(work_dir: Path) -> None:
    """Refuses a directory that holds a run of another kind."""
    file = work_dir / RECORD_NAME
    try:
        kind = read_record(file).kind if file.exists() else PRETRAINING
    except RecordError:  # damaged
        return
    if kind != PRETRAINING:
        raise ValueError(f"{work_dir} holds a run of {kind}; choose another --work-dir")


def _checkpoint_to_resume(work_dir: Path, resume: bool, config_sha256: str) -> tuple[_Resumed | None, list[str]]:
    """The newest intact checkpoint, and messages about damaged ones that are newer.

    Raises:
        ValueError: there are checkpoints, but ``resume`` is off, all are damaged, or they are of another config.
    """
    files = checkpoint_files(work_dir)
    if not files:
        return None, []
    if not resume:
        raise ValueError(f"{work_dir} already holds {files[0].name}; pass --resume to continue or choose another --work-dir")
    path, damaged = newest_intact(work_dir)
    if path is None:
        raise ValueError(f"{work_dir} holds no checkpoint to resume from: {'; '.join(damaged)}; put an intact one there or "
                         "choose another --work-dir")
    content = load_checkpoint(path)
    record = content[RECORD_KEY]
    if record.get("config_sha256") != config_sha256:
        raise ValueError(f"{path} is of a run of a different config; choose another --work-dir")
    return _Resumed(path, content["meta"]["seed"], record["setting"]["images"]), damaged


def _record(runner: Runner, config: dict) -> dict[str, Any]:
    """The record of what is trained here, described from the parts that were built."""
    identity = {
        "method": method_of_learner(learner_of(runner), epochs_per_unit(config)),
        "setting": setting_of_config(config, len(runner.train_dataloader.dataset)),
        "repetition": {"seed": runner.seed},
    }
    data_root = config["train_dataloader"]["dataset"]["data_root"]
    return new_record(PRETRAINING, identity, protocol={"name": PRETRAINING}, data_root=data_root)


def _finish_record(work_dir: Path, seconds: float | None) -> None:
    """Adds this session's duration, if any, to the run's record, and the means over the last epoch that was logged."""
    path = work_dir / RECORD_NAME
    record = dict(read_record(path).content)
    if seconds is not None:
        record["duration_s"] = round((record["duration_s"] or 0.0) + seconds, 3)
    dataset = dataset_name(record["setting"]["data"])
    try:
        log = read_training_log(work_dir)
    except ValueError:  # it ended before the first line
        log = None
    if log is not None:
        record["rows"] = [measurement(dataset, PRETRAINING, metric, log.last_epoch_mean(f"{metric}_{unit}"), stage=unit)
                          for unit in log.units() for metric in log.metrics(unit) if metric != "knn"]
    write_record(path, record)


def _build_runner(config: dict, resumed: _Resumed | None, launcher: str) -> Runner:
    """A runner with everything built that may refuse its options, and checked for what would fail or go wrong later.

    Raises:
        ValueError: something does not fit; the message names the config's key or the fix.
    """
    start = {} if resumed is None else dict(resume=True, load_from=str(resumed.path))
    seed = config.get("randomness", {}).get("seed")
    if seed is None:  # mmengine would draw one, and restore a resumed run's only when its data are shuffled already
        seed = comm.broadcast_from_rank0(lambda: secrets.randbelow(2**31)) if resumed is None else resumed.seed
    complete = Config(dict(
        per_rank_config(config),
        **start,
        randomness=dict(config.get("randomness", {}), seed=seed),
        launcher=launcher if comm.world_size() > 1 else "none",  # else mmengine wraps the model for one process, too
    ), format_python_code=False)  # yapf would format it for the log, for each dump and for every checkpoint
    with _naming("model, hooks or visualizer"):
        runner = Runner.from_cfg(complete)
    if config.get("monitor") is not None:
        runner.register_hook(build_with_options("monitor", KnnMonitorHook, config["monitor"]))
    with comm.main_process_first(), _naming("train_dataloader"):
        assert runner.train_loop is not None  # builds the data set
    _check_images(runner, config, resumed)
    with _naming("optim_wrapper"):
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    with _naming("param_scheduler"):
        if runner.param_schedulers is not None:
            runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    learner_of(runner).check_optim_wrapper(runner.optim_wrapper)
    learner_of(runner).total_steps = runner.max_iters
    for hook in runner.hooks:
        if hasattr(hook, "check"):  # ours
            hook.check(runner)
    return runner


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """What mmengine raises about a key's options becomes a ``ValueError`` that names the key."""
    try:
        yield
    except (TypeError, AttributeError, KeyError, AssertionError) as error:
        raise ValueError(f"options of {key} do not fit: {error}") from error


def _check_images(runner: Runner, config: dict, resumed: _Resumed | None) -> None:
    """Refuses too few images, and others than those that the checkpoint was trained on: their order would be another."""
    loader = config["train_dataloader"]
    root, batch_size, found = loader["dataset"]["data_root"], loader["batch_size"], len(runner.train_dataloader.dataset)
    if found < batch_size:
        raise ValueError(f"{root} holds {found} images, fewer than a batch of {batch_size}; add images or lower "
                         "train_dataloader.batch_size with --cfg-options")
    if resumed is not None and found != resumed.images:
        raise ValueError(f"{root} holds {found} images, but {resumed.path} was trained on {resumed.images}; restore them or "
                         "start again in another --work-dir")


def per_rank_config(config: dict) -> dict:
    """The config of one of the processes: its part of the batch, at the learning rate of the whole batch.

    Raises:
        ValueError: the batch is of one image or cannot be divided, the learning rate is ambiguous, the schedule does not fit
            the run, or gradients are to be accumulated.
    """
    batch_size, world_size = config["train_dataloader"]["batch_size"], comm.world_size()
    if batch_size < 2:
        raise ValueError(f"train_dataloader.batch_size is {batch_size}; contrastive losses need at least 2 images, each "
                         "other's negatives")
    if batch_size % world_size:
        raise ValueError(f"train_dataloader.batch_size is {batch_size}, the batch of all processes together, which "
                         f"{world_size} processes cannot share evenly; choose a multiple of {world_size}")
    check_no_accumulation(config["optim_wrapper"])
    check_schedule(config.get("param_scheduler"), config["train_cfg"]["max_epochs"])
    share = dict(
        config,
        train_dataloader=dict(config["train_dataloader"], batch_size=batch_size // world_size),
        optim_wrapper=resolve_lr(config["optim_wrapper"], batch_size),
    )
    return dict({"model_wrapper_cfg": dict(type="DataParallelLearner")}, **share) if world_size > 1 else share
