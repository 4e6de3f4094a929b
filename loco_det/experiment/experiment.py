"""Detection experiments, each a config over its splits: checked first, then trained and evaluated split by split.

An experiment's work directory has the record ``run.json`` (:mod:`pretrain.results.store`), which says what was trained, and
each finished split has one with its measurements in its own folder.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from loco_det.datasets.cityscapes import check_ground_truth_exists
from loco_det.datasets.coco import category_difference, category_names, derive, load_annotations
from loco_det.datasets.splits import select_image_ids, split_record
from loco_det.experiment.config import Split, measured_tasks, split_config, split_dir
from loco_det.experiment.inputs import (
    ERROR_FILE,
    REGISTRATION,
    check_backbone,
    check_buildable,
    check_files,
    check_processes,
    check_split_size,
    check_splits,
)
from pretrain.data.synthetic import ensure_configured
from pretrain.distributed import comm
from pretrain.engine.checkpoints import checkpoint_files, file_sha256, load_checkpoint, newest_intact
from pretrain.engine.claim import claim_run
from pretrain.engine.cli import note
from pretrain.engine.work_dir import RECORD_NAME, check_work_dir, config_fingerprint, init_work_dir, write_json, write_text
from pretrain.errors import RunFailedError, RunInterrupted
from pretrain.results.store import DETECTION, measurement, new_record, read_record, write_record

# Of a config, by dotted names: what runs whose results stand side by side need not have in common, because the backbone
# decides it, it is in the identity, or it does not change what is computed.
NOT_PROTOCOL = (
    "pretrained", "model.backbone.encoder", "model.backbone.checkpoint", "model.backbone.out_stages",
    "model.backbone.out_strides", "model.backbone.frozen_stages", "model.neck.in_channels", "data.root",
    "data.num_train_images", "synthetic_data", "train_pipeline", "test_pipeline", "custom_imports", "default_hooks",
    "custom_hooks", "channels_last",
)


@dataclass(frozen=True)
class DataDescription:
    """What a run needs to know of its annotation files.

    Attributes:
        classes: names, in the files' order.
        num_val_images: images that are evaluated on.
        train_sha256: hash of the training file.
        val_sha256: hash of the validation file.
    """

    classes: tuple[str, ...]
    num_val_images: int
    train_sha256: str
    val_sha256: str


def run_experiments(
    configs: Sequence[Config], splits: Sequence[int] | None = None, resume: bool = False, launcher: str = "none"
) -> list[Path]:
    """Trains and evaluates every split of every config, one after the other, and writes a record of each.

    Args:
        configs: resolved configs with ``work_dir`` set, of the shape of ``configs/mask_rcnn_*.py``.
        splits: which of each protocol's splits to run; None for all. A split with a record is not run again.
        resume: continue a split that was begun from its last checkpoint instead of from its start.
        launcher: ``"none"`` for a single process, or one of :data:`pretrain.distributed.comm.LAUNCHERS`, whose processes
            share each run.

    Returns:
        The records of the experiments.

    Raises:
        ValueError: something that a run needs is missing or does not fit; before any training.
        RunFailedError: runs have failed; the others have been carried out. In several processes the first failure ends all.
        RunInterrupted: a signal asked to stop; the run that was going on is saved.
    """
    comm.start_processes(launcher)
    experiments = [Experiment(config, splits) for config in configs]
    failures = []
    for experiment in experiments:
        experiment.prepare()
        for index in experiment.todo:
            try:
                experiment.run_split(index, resume)
            except RunInterrupted:  # all processes at once; one that ends with its group open may abort
                comm.stop_processes()
                raise
            except Exception as error:
                failures.append(experiment.note_failure(index, error))
                if comm.world_size() > 1:  # the other processes may be waiting for this one
                    raise
            finally:
                _free_memory()
    comm.stop_processes()
    if failures:
        total = sum(len(experiment.todo) for experiment in experiments)
        raise RunFailedError(f"{len(failures)} of {total} runs failed: {'; '.join(failures)}")
    return [experiment.record_file for experiment in experiments]


class Experiment:
    """One config over its splits.

    Constructing it checks all that it needs and changes nothing on disk; a config that takes any backbone file gets the
    file's encoder.

    Args:
        config: resolved config with ``work_dir`` set.
        splits: which splits to run; None for all of the protocol.

    Attributes:
        todo: those of them without a record, ascending.
        record_file: the experiment's record.

    Raises:
        ValueError: something is missing or does not fit.
    """

    def __init__(self, config: Config, splits: Sequence[int] | None = None) -> None:
        self.config = config
        chosen = check_splits(config, splits)
        check_processes()
        with comm.main_process_first():
            ensure_configured(config)  # generates the data set where it is synthetic
        check_files(config)
        import_modules_from_strings([name for name in config.custom_imports.imports if name != REGISTRATION])
        self.record_file = Path(config.work_dir) / RECORD_NAME
        self._identity, self._backbone = check_backbone(config)
        self._tasks = measured_tasks(config)
        self._data = comm.broadcast_from_rank0(lambda: _describe_data(config))
        self._own_config = _own_config(config, self._backbone, self._data)
        self._sha256: str = check_work_dir(config.work_dir, self._own_config)
        finished = comm.broadcast_from_rank0(lambda: _finished_splits(config))  # others may finish one in the meantime
        self.todo = [index for index in chosen if index not in finished]
        self._splits: dict[int, Split] = {}
        if self.todo:
            importlib.import_module(REGISTRATION)
            check_buildable(split_config(config, Split(0, 0, Path("none"), 1, ""), Path("none"), self._data.classes))

    def prepare(self) -> None:
        """Makes the work directory this experiment's, and writes its record and its splits."""
        self._splits = comm.broadcast_from_rank0(self._prepare)
        _read.cache_clear()  # worker processes would come to copy it

    def run_split(self, index: int, resume: bool) -> None:
        """Trains and evaluates one detector, and writes its record.

        Args:
            index: number of the split.
            resume: continue from its newest intact checkpoint, where there is one.
        """
        folder = split_dir(self.config, index)
        with contextlib.ExitStack() as claim:
            comm.broadcast_from_rank0(lambda: claim.enter_context(claim_run(folder)))
            self._run_split(self._splits[index], folder, resume)

    def _run_split(self, split: Split, folder: Path, resume: bool) -> None:
        checkpoint, damaged = comm.broadcast_from_rank0(lambda: _checkpoint_to_resume(folder, resume))
        begun_at = 0 if checkpoint is None else load_checkpoint(checkpoint)["meta"]["iter"]
        record = self._new_record(
            split.index, config_sha256=self._sha256, seed=split.seed, num_train_images=split.num_images,
            image_ids_sha256=split.image_ids_sha256, num_val_images=self._data.num_val_images,
            val_sha256=self._data.val_sha256,
        )
        runner = Runner.from_cfg(split_config(self.config, split, self._val_file, self._data.classes, checkpoint))
        kept = ("method", "setting", "repetition", "dataset", "classes", "config_sha256", "git_revision")
        runner.register_hook(dict(type="RecordHook", key=DETECTION,
                                  record={**{key: record[key] for key in kept}, "split": split.index}))
        for message in damaged:
            runner.logger.warning(f"skipped a checkpoint: {message}")
        began = time.monotonic()
        runner.train()
        trained = time.monotonic()
        metrics = runner.val_loop.run()  # not runner.val(), which may load a checkpoint over what was just trained
        ended, iterations = time.monotonic(), runner.iter - begun_at
        record |= dict(  # of this session: of a resumed run the earlier ones are in its logs
            iterations=iterations, training_seconds=trained - began, evaluation_seconds=ended - trained,
            iterations_per_second=iterations / (trained - began) if iterations else None, duration_s=ended - began,
            rows=[self._measurement(name, value, split.index) for name, value in metrics.items()],
        )
        comm.broadcast_from_rank0(lambda: self._write_split(folder, record))

    def note_failure(self, index: int, error: Exception) -> str:
        """Writes the traceback beside the split's log, and returns a line about it."""
        file = split_dir(self.config, index) / ERROR_FILE
        write_text(file, "".join(traceback.format_exception(error)))
        line = f"{Path(self.config.work_dir).name}, split {index}: {' '.join(str(error).split())} (see {file})"
        note(f"failed, going on without it: {line}")
        return line

    @property
    def _val_file(self) -> Path:
        return Path(self.config.work_dir) / "annotations_val.json"

    def _prepare(self) -> dict[int, Split]:
        """Writes the splits, which all processes will read, and the experiment's record."""
        train, val = read_annotations(self.config)
        splits = {index: _make_split(self.config, train, index) for index in self.todo}
        if self.todo:
            write_json(self._val_file, val)
        record = self._new_record(num_splits=self.config.protocol.num_splits, backbone=self._backbone,
                                  data_root=str(Path(self.config.data.root).resolve()))
        init_work_dir(self.config.work_dir, self._own_config, record)
        return splits

    def _new_record(self, split: int | None = None, **content: Any) -> dict[str, Any]:
        """The record of the experiment, or of one of its splits."""
        identity = self._identity
        if split is not None:
            identity = {**identity, "repetition": {**identity["repetition"], "split": split}}
        return new_record(
            DETECTION, identity, detection_protocol(self._own_config, self._data.num_val_images),
            dataset=self.config.protocol.dataset, tasks=list(self._tasks), classes=list(self._data.classes), **content,
        )

    def _measurement(self, name: str, value: float, split: int) -> dict[str, Any]:
        metric, _, class_name = name.partition("/")  # of a class bbox_AP/person, see CocoAP
        return measurement(self.config.protocol.dataset, DETECTION, metric, value, split=split,
                           class_name=class_name or None)

    def _write_split(self, folder: Path, record: Mapping[str, Any]) -> None:
        (folder / ERROR_FILE).unlink(missing_ok=True)
        write_record(folder / RECORD_NAME, record)
        found = {row["metric"]: row["value"] for row in record["rows"] if "class_name" not in row}
        note(f"{folder.name}: " + ", ".join(f"{task} AP {_shown(found[f'{task}_AP'])}" for task in self._tasks)
             + f" ({record['training_seconds']:.0f} s of training)")


def detection_protocol(config: Mapping[str, Any], num_val_images: int) -> dict[str, Any]:
    """What detection results must have in common to be averaged, or to stand in one column, beside the identity.

    Args:
        config: of the experiment, with the hashes of its annotations.
        num_val_images: that are evaluated on.

    Returns:
        The config without :data:`NOT_PROTOCOL`, the number of images, and ``frozen_stages`` of the backbone, by itself since
        random weights have nothing to freeze: see :class:`pretrain.results.table.Results`.
    """
    frozen = config["model"]["backbone"]["frozen_stages"]
    return {"name": DETECTION, "num_val_images": num_val_images, "frozen_stages": frozen,
            "config": _protocol_part(config_fingerprint(config)[1])}


def _protocol_part(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    part = {key: _protocol_part(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in config.items() if f"{prefix}{key}" not in NOT_PROTOCOL}
    return {key: value for key, value in part.items() if value is not None and value != {}}


def read_annotations(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads and checks both annotation files; merges categories into supercategories where the config says so.

    Raises:
        ValueError: they are of two data sets, the splits are larger than the training set, that is not the one which the
            protocol names, or files for Cityscapes' official evaluation are missing.
    """
    data, root = config.data, Path(config.data.root)
    masks = "segm" in measured_tasks(config)
    train = _read(root / data.train_ann, root / data.train_images, masks)
    val = _read(root / data.val_ann, root / data.val_images, masks)
    difference = category_difference(category_names(train), category_names(val))
    if difference:
        raise ValueError(f"{root / data.train_ann} and {root / data.val_ann} list different categories ({difference}); they "
                         "must be of one data set")
    found, expected = len(train["images"]), data.get("num_train_images")
    check_split_size(config, found)
    if expected is not None and found != expected:
        raise ValueError(f"{root / data.train_ann} lists {found} images, but this protocol is defined on {expected}: its "
                         "splits would not be comparable; get the official file, or set data.num_train_images=None and "
                         "another protocol.dataset with --cfg-options")
    if data.get("official_gt"):
        check_ground_truth_exists(root / data.official_gt, [image["file_name"] for image in val["images"]])
    if data.supercategories:
        train, val = derive(train, supercategories=True), derive(val, supercategories=True)
    return train, val


@functools.lru_cache(maxsize=2)  # one data set's two files: experiments that follow each other mostly share them
def _read(ann_file: Path, images: Path, masks: bool) -> dict[str, Any]:
    return load_annotations(ann_file, images, masks)


def _make_split(config: Config, content: dict[str, Any], index: int) -> Split:
    """Writes the split's id list beside its record, and its annotation file where it is not the data set's own."""
    protocol, data = config.protocol, config.data
    seed = protocol.seed + index
    ids = [image["id"] for image in content["images"]]
    whole = protocol.split_size is None and not data.supercategories
    if protocol.split_size is not None:
        ids = select_image_ids(ids, protocol.split_size, seed)
    folder, record, part = split_dir(config, index), split_record(ids, seed), derive(content, ids)
    if all(annotation["iscrowd"] for annotation in part["annotations"]):
        raise ValueError(f"split {index} has no image with an object to learn; choose a larger protocol.split_size")
    write_json(folder / "image_ids.json", record)
    ann_file = Path(data.root) / data.train_ann if whole else folder / "annotations_train.json"
    if not whole:
        write_json(ann_file, part)
    return Split(index, seed, ann_file, len(ids), record["sha256"])


def _checkpoint_to_resume(folder: Path, resume: bool) -> tuple[Path | None, list[str]]:
    """The newest intact checkpoint of a split's run and messages about damaged ones; without ``resume`` all are removed."""
    if resume:
        return newest_intact(folder)
    files = checkpoint_files(folder)
    if files:
        note(f"{folder} starts again without its {len(files)} earlier checkpoints (--resume continues them)")
    for file in files:
        file.unlink()
    return None, []


def _describe_data(config: Config) -> DataDescription:
    train, val = read_annotations(config)
    root = Path(config.data.root)
    return DataDescription(
        classes=tuple(category_names(train)),
        num_val_images=len(val["images"]),
        train_sha256=file_sha256(root / config.data.train_ann),
        val_sha256=file_sha256(root / config.data.val_ann),
    )


def _own_config(config: Config, backbone: Mapping[str, Any] | None, data: DataDescription) -> dict[str, Any]:
    """What makes a run this one: the config, with data and backbone by their content, not by their path."""
    content = config.to_dict()
    content["data"] |= dict(root=Path(config.data.root).name, train_sha256=data.train_sha256, val_sha256=data.val_sha256)
    content["pretrained"] = dict(method=config.pretrained.method, sha256=backbone and backbone["sha256"])
    return content


def _finished_splits(config: Config) -> list[int]:
    """The splits that have a record.

    Raises:
        RecordError: one is damaged.
    """
    files = {index: split_dir(config, index) / RECORD_NAME for index in range(config.protocol.num_splits)}
    return [index for index, file in files.items() if file.exists() and read_record(file)]


def _free_memory() -> None:
    """A Runner refers to itself: without this, its weights and workers stay until the garbage collector runs."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _shown(points: float | None) -> str:
    return "undefined" if points is None else f"{points:.2f}"
