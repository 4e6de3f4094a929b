"""Detection experiments, each a config over its splits: checked first, then trained and evaluated split by split."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import math
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from loco_det.backbone_file import check_backbone, encoder_name
from loco_det.datasets.annotations import category_names, derive, load_annotations
from loco_det.datasets.splits import image_ids_sha256, select_image_ids, split_seed, write_split
from loco_det.detection_config import Split, split_config, split_dir
from loco_det.evaluation.cityscapes_ap import check_official_ground_truth
from loco_det.evaluation.results import METRICS, RESULTS_FILE, TASKS, PretrainedBackbone, RunResults, SplitResult
from loco_det.experiment_inputs import check_files, check_splits, process_problem
from loco_det.experiment_parts import check_buildable
from loco_det.locks import one_after_the_other, only_one_process
from pretrain import distributed
from pretrain.checkpoint_files import checkpoint_files, newest_intact
from pretrain.checkpoints import file_sha256, load_checkpoint
from pretrain.cli import note
from pretrain.data.synthetic import ensure_configured
from pretrain.errors import RunFailedError, RunInterrupted
from pretrain.work_dir import check_work_dir, claim_work_dir, git_revision, write_json, write_text

REGISTRATION = "loco_det.register"  # imports mmdet, which takes seconds: bad input must not wait for it
ERROR_FILE, RESULT_FILE, TIMING_FILE = "error.txt", "result.json", "timing.json"  # of a split


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


@dataclass(frozen=True)
class Timing:
    """How long the last session of a run took; of a resumed run the earlier ones are in its logs.

    Attributes:
        iterations: training iterations of the session.
        training_seconds: for these, checkpoints included.
        evaluation_seconds: for the evaluation.
    """

    iterations: int
    training_seconds: float
    evaluation_seconds: float

    def plain(self) -> dict[str, float | None]:
        """With the rate, None where nothing was left to train."""
        rate = self.iterations / self.training_seconds if self.iterations else None
        return {**asdict(self), "iterations_per_second": rate}


def run_experiments(configs: Sequence[Config], splits: Sequence[int] | None = None, resume: bool = False) -> list[Path]:
    """Trains and evaluates every split of every config, one after the other, and writes ``results.json`` after each.

    Args:
        configs: resolved configs with ``work_dir`` set, of the shape of ``configs/mask_rcnn_*.py``.
        splits: which of each protocol's splits to run; None for all. A split with a result is not run again.
        resume: continue a split that was begun from its last checkpoint instead of from its start.

    Returns:
        The files of results.

    Raises:
        ValueError: something that a run needs is missing or does not fit; before any training.
        RunFailedError: runs have failed; the others have been carried out. In several processes the first failure ends all:
            :mod:`loco_det.launch` keeps runs apart.
        RunInterrupted: a signal asked to stop; the run that was going on is saved.
    """
    experiments = [Experiment(config, splits) for config in configs]
    failures = []
    for experiment in experiments:
        experiment.claim()
        for index in experiment.todo:
            try:
                experiment.run_split(index, resume)
            except RunInterrupted:
                raise
            except Exception as error:
                failures.append(experiment.note_failure(index, error))
                if distributed.world_size() > 1:  # the other processes may be waiting for this one
                    raise
            finally:
                _free_memory()
    if failures:
        total = sum(len(experiment.todo) for experiment in experiments)
        raise RunFailedError(f"{len(failures)} of {total} runs failed: {'; '.join(failures)}")
    return [experiment.results_file for experiment in experiments]


class Experiment:
    """One config over its splits.

    Constructing it checks all that it needs and changes nothing.

    Args:
        config: resolved config with ``work_dir`` set.
        splits: which splits to run; None for all of the protocol.

    Attributes:
        todo: those of them without a result, ascending.
        results_file: where its results are gathered.

    Raises:
        ValueError: something is missing or does not fit.
    """

    def __init__(self, config: Config, splits: Sequence[int] | None = None) -> None:
        self.config = config
        chosen = check_splits(config, splits)
        if problem := process_problem():
            raise ValueError(problem)
        with distributed.first_process_first():
            ensure_configured(config)  # draws the data set that is drawn
        check_files(config)
        import_modules_from_strings([name for name in config.custom_imports.imports if name != REGISTRATION])
        self.results_file = Path(config.work_dir) / RESULTS_FILE
        self._pretrained = check_backbone(config)
        self._data = distributed.from_first_process(lambda: _describe_data(config))
        self._identity = _identity(config, self._pretrained, self._data)
        self._sha256: str = check_work_dir(config.work_dir, self._identity)
        finished = distributed.from_first_process(self._finished)  # another command may finish one meanwhile
        self.todo = [index for index in chosen if index not in finished]
        self._splits: dict[int, Split] = {}
        if self.todo:
            importlib.import_module(REGISTRATION)
            check_buildable(config, self._data.classes)

    def claim(self) -> None:
        """Makes the work directory this experiment's, and writes its splits and the results that there are already."""
        self._splits = distributed.from_first_process(self._prepare)
        _read.cache_clear()  # worker processes would come to copy it

    def run_split(self, index: int, resume: bool) -> None:
        """Trains and evaluates one detector, and files its result.

        Args:
            index: number of the split.
            resume: continue from its newest intact checkpoint, where there is one.
        """
        folder = split_dir(self.config, index)
        with contextlib.ExitStack() as stack:
            distributed.from_first_process(lambda: _lock(folder, stack))
            self._run_split(self._splits[index], folder, resume)

    def _run_split(self, split: Split, folder: Path, resume: bool) -> None:
        checkpoint, damaged = distributed.from_first_process(lambda: _checkpoint_to_resume(folder, resume))
        begun_at = 0 if checkpoint is None else load_checkpoint(checkpoint)["meta"]["iter"]
        runner = Runner.from_cfg(split_config(self.config, split, self._val_file, self._data.classes, checkpoint))
        assert is_model_wrapper(runner.model) == (distributed.world_size() > 1)
        runner.register_hook(dict(type="DetectorRecordHook", record=self._record(split)))
        for message in damaged:
            runner.logger.warning(f"passed over a checkpoint: {message}")
        began = time.monotonic()
        runner.train()
        trained = time.monotonic()
        metrics = runner.val_loop.run()  # not runner.val(), which may load a checkpoint over what was just trained
        timing = Timing(runner.iter - begun_at, trained - began, time.monotonic() - trained)
        distributed.from_first_process(lambda: self._file_result(split, metrics, timing))

    def note_failure(self, index: int, error: Exception) -> str:
        """Writes the traceback beside the split's log, and returns a line about it."""
        file = split_dir(self.config, index) / ERROR_FILE
        write_text(file, "".join(traceback.format_exception(error)))
        line = f"{Path(self.config.work_dir).name}, split {index}: {' '.join(str(error).split())} (see {file})"
        note(f"failed, going on without it: {line}")
        return line

    def gather(self) -> None:
        """Writes ``results.json`` from all splits finished by now, whichever process has run them."""
        config, pretrained = self.config, self._pretrained
        results = RunResults(
            method=config.pretrained.method,
            dataset=config.protocol.dataset,
            encoder=encoder_name(config),
            config=config.config_file,
            config_sha256=self._sha256,
            pretrained=pretrained,
            requested_splits=list(range(config.protocol.num_splits)),
        )
        with one_after_the_other(self.results_file.parent):  # runs that end at once in several commands
            results.splits.update(self._finished())
            results.write(self.results_file)

    def _finished(self) -> dict[int, SplitResult]:
        """The splits that have a result.

        Raises:
            ValueError: one is damaged.
        """
        finished = {}
        for index in range(self.config.protocol.num_splits):
            file = split_dir(self.config, index) / RESULT_FILE
            if file.exists():
                try:
                    finished[index] = SplitResult(**json.loads(file.read_text()))
                except (ValueError, TypeError) as error:
                    raise ValueError(f"{file} is damaged ({error}); delete it to run split {index} again") from error
        return finished

    @property
    def _val_file(self) -> Path:
        return Path(self.config.work_dir) / "annotations_val.json"

    def _prepare(self) -> dict[int, Split]:
        """Claims the work directory and writes what all processes will read."""
        claim_work_dir(self.config.work_dir, self._identity)
        train, val = read_annotations(self.config)
        if self.todo:
            write_json(self._val_file, val)
        splits = {index: _make_split(self.config, train, index) for index in self.todo}
        self.gather()
        return splits

    def _record(self, split: Split) -> dict[str, Any]:
        """What is written into every checkpoint of a split."""
        return dict(
            method=self.config.pretrained.method,
            encoder=self.config.model.backbone.to_dict()["encoder"],
            classes=list(self._data.classes),
            split=split.index,
            image_ids_sha256=split.image_ids_sha256,
            config_sha256=self._sha256,
            git_revision=git_revision(),
        )

    def _file_result(self, split: Split, metrics: dict[str, float], timing: Timing) -> None:
        folder = split_dir(self.config, split.index)
        points = {task: {name: _none_if_nan(metrics[f"{task}_{name}"]) for name in METRICS} for task in TASKS}
        official = {name.removeprefix("official_"): _none_if_nan(value) for name, value in metrics.items()
                    if name.startswith("official_")}
        result = SplitResult(
            **points,
            official=official or None,
            num_train_images=split.num_images,
            image_ids_sha256=split.image_ids_sha256,
            num_val_images=self._data.num_val_images,
            val_sha256=self._data.val_sha256,
            seed=split.seed,
        )
        write_json(folder / TIMING_FILE, timing.plain())
        (folder / ERROR_FILE).unlink(missing_ok=True)
        write_json(folder / RESULT_FILE, asdict(result))
        self.gather()
        note(f"split {split.index}: " + ", ".join(f"{task} AP {_spell(points[task]['AP'])}" for task in TASKS)
             + f" ({timing.training_seconds:.0f} s of training)")


def read_annotations(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads and checks both annotation files; merges categories into supercategories where the config says so.

    Raises:
        ValueError: they are of two data sets, the splits are larger than the training set, that is not the one which the
            protocol names, or files for Cityscapes' official evaluation are missing.
    """
    data, root = config.data, Path(config.data.root)
    train = _read(root / data.train_ann, root / data.train_images)
    val = _read(root / data.val_ann, root / data.val_images)
    if category_names(train) != category_names(val):
        raise ValueError(f"{root / data.train_ann} and {root / data.val_ann} list different categories; they must be of one "
                         "data set")
    found, expected, size = len(train["images"]), data.get("num_train_images"), config.protocol.split_size
    if size is not None and size > found:
        raise ValueError(f"splits of {size} images are asked for, but {root / data.train_ann} has only {found}; set "
                         "protocol.split_size with --cfg-options or use the whole set")
    if expected is not None and found != expected:
        raise ValueError(f"{root / data.train_ann} lists {found} images, but this protocol is defined on {expected}: its "
                         "splits would be nobody else's; get the official file, or set data.num_train_images=None and "
                         "another protocol.dataset with --cfg-options")
    if data.get("official_gt"):
        check_official_ground_truth(root / data.official_gt, val["images"])
    if data.supercategories:
        train, val = derive(train, supercategories=True), derive(val, supercategories=True)
    return train, val


@functools.lru_cache(maxsize=2)  # one data set's two files: experiments that follow each other mostly share them
def _read(ann_file: Path, images: Path) -> dict[str, Any]:
    return load_annotations(ann_file, images)


def _make_split(config: Config, content: dict[str, Any], index: int) -> Split:
    """Writes the split's id list beside its results, and its annotation file where it is not the data set's own."""
    protocol, data = config.protocol, config.data
    seed = split_seed(index, protocol.seed)
    ids = [image["id"] for image in content["images"]]
    whole = protocol.split_size is None and not data.supercategories
    if protocol.split_size is not None:
        ids = select_image_ids(ids, protocol.split_size, seed)
    folder = split_dir(config, index)
    write_split(folder / "image_ids.json", ids, seed)
    ann_file = Path(data.root) / data.train_ann if whole else folder / "annotations_train.json"
    if not whole:
        write_json(ann_file, derive(content, ids))
    return Split(index, seed, ann_file, len(ids), image_ids_sha256(ids))


def _lock(folder: Path, stack: contextlib.ExitStack) -> None:
    stack.enter_context(only_one_process(folder))


def _checkpoint_to_resume(folder: Path, resume: bool) -> tuple[Path | None, list[str]]:
    """The newest intact checkpoint of a split's run and messages about damaged ones; without ``resume`` all are removed."""
    if resume:
        return newest_intact(folder)
    files = checkpoint_files(folder)
    if files:
        note(f"{folder} is begun anew, its {len(files)} checkpoints go; --resume would have continued it")
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


def _identity(config: Config, pretrained: PretrainedBackbone | None, data: DataDescription) -> dict[str, Any]:
    """What makes a run this one: the config, with data and backbone by what they are and not by where they lie."""
    content = config.to_dict()
    content["data"] |= dict(root=Path(config.data.root).name, train_sha256=data.train_sha256, val_sha256=data.val_sha256)
    content["pretrained"] = dict(method=config.pretrained.method, sha256=pretrained and pretrained.sha256)
    return content


def _free_memory() -> None:
    """A Runner refers to itself: without this, its weights and workers stay until the collector happens to come by."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _spell(points: float | None) -> str:
    return "undefined" if points is None else f"{points:.2f}"
