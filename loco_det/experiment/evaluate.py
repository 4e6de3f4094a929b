"""A detector's checkpoint read, loaded strictly, and evaluated on a config's validation set."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings
from torch import Tensor, nn

from loco_det.datasets.cityscapes import check_ground_truth_exists
from loco_det.datasets.coco import category_names, derive, load_annotations
from loco_det.experiment.config import dataset_options, detector_config, detector_tasks, evaluators, measured_tasks
from loco_det.experiment.inputs import REGISTRATION, check_processes, missing_data, use_encoder
from pretrain.data.synthetic import ensure_configured
from pretrain.distributed import comm
from pretrain.engine.checkpoints import (
    CheckpointError,
    check_same_encoder,
    file_sha256,
    load_checkpoint,
    state_dict_problems,
)
from pretrain.engine.work_dir import check_writable, write_json
from pretrain.results.store import DETECTION

_KEPT_KEYS = ("default_scope", "env_cfg", "log_processor", "val_dataloader", "val_cfg")


@dataclass(frozen=True)
class DetectorFile:
    """A detector's weights read from a file, and what the file says of them.

    Attributes:
        path: the file.
        sha256: hash of the whole file.
        state_dict: the weights under the detector's own names.
        record: what :mod:`loco_det.experiment.experiment` writes into checkpoints, such as ``method``, ``setting`` and
            ``classes``; empty for a bare state dict.
    """

    path: Path
    sha256: str
    state_dict: dict[str, Tensor]
    record: dict[str, Any]

    @property
    def encoder(self) -> dict[str, Any] | None:
        """Config of the backbone's encoder; None where the file does not say."""
        return self.record.get("setting", {}).get("encoder")


def evaluate_checkpoint(
    config: Config, checkpoint: str | Path, dump: str | Path | None = None, backend: str = "auto"
) -> dict[str, Any]:
    """Evaluates a detector on the validation set of ``config``; neither training data nor a backbone file is needed.

    Under a launcher all processes share the images, and all return the metrics.

    Args:
        config: resolved config of the shape of ``configs/mask_rcnn_*.py``.
        checkpoint: an ``epoch_*.pth`` of ``tools/train_det.py``, or a state dict of the whole detector.
        dump: prefix of the files to write the predictions to, see :class:`loco_det.evaluation.coco_ap.CocoAP`.
        backend: of COCO's AP, see :func:`loco_det.evaluation.coco_ap.coco_ap`.

    Returns:
        ``checkpoint``, its ``sha256``, the number of ``images``; ``bbox`` and ``segm``, as far as the detector predicts
        them, and ``official``, of Cityscapes' own evaluation: metric -> points 0 to 100, None where no object of that size
        exists; and ``per_class``: ``bbox`` and ``segm`` -> class -> AP.

    Raises:
        ValueError: the data are missing or broken, the file is not a checkpoint, or of another encoder, other classes or
            another architecture than the config's, predictions cannot be written, or several processes were started that do
            not share the images; or as :class:`loco_det.evaluation.coco_ap.CocoAP`.
    """
    check_processes()
    if dump is not None:
        _check_dump(dump)
    detector = read_detector(checkpoint)
    use_encoder(config, detector.encoder)
    content = _validation_annotations(config)
    classes = category_names(content)
    check_record(detector, config, classes)
    import_modules_from_strings([REGISTRATION, *config.get("custom_imports", {}).get("imports", [])])
    with tempfile.TemporaryDirectory() as folder:
        val_file = Path(folder) / "annotations_val.json"
        write_json(val_file, content)
        coco_options = dict(backend=backend, dump=None if dump is None else str(dump))  # mmengine's configs hold no Path
        runner = Runner.from_cfg(_evaluation_config(config, val_file, classes, coco_options))
        load_detector(runner.model, detector)
        metrics = runner.val_loop.run()
    plain = {name: value for name, value in metrics.items() if "/" not in name}  # the others are of a class
    return {
        "checkpoint": str(checkpoint),
        "sha256": detector.sha256,
        "images": len(content["images"]),
        **{task: _metrics_of(f"{task}_", plain) for task in measured_tasks(config)},
        "per_class": {task: _metrics_of(f"{task}_AP/", metrics) for task in detector_tasks(config.model.to_dict())},
    }


def read_detector(path: str | Path) -> DetectorFile:
    """Reads a detector's weights from a training checkpoint of ours or a state dict.

    Raises:
        CheckpointError: the file cannot be read or holds no detector.
    """
    content = load_checkpoint(path)
    weights = content.get("state_dict", content)
    if not isinstance(weights, Mapping) or not any(str(key).startswith("backbone.") for key in weights):
        raise CheckpointError(f"{path} holds no detector (no backbone); pass an epoch_*.pth that tools/train_det.py wrote")
    record = content.get(DETECTION)
    return DetectorFile(Path(path), file_sha256(path), dict(weights), dict(record) if isinstance(record, Mapping) else {})


def load_detector(model: nn.Module, detector: DetectorFile) -> None:
    """Loads all weights of a detector, strictly.

    Raises:
        CheckpointError: keys are missing, unexpected or of another shape, or a weight is not finite.
    """
    problems = state_dict_problems(model.state_dict(), detector.state_dict)
    if problems:
        raise CheckpointError(f"{detector.path} does not fit the config's detector; keys: {problems}; pass the config that "
                              "it was trained with")
    model.load_state_dict(detector.state_dict, strict=True)


def _validation_annotations(config: Config) -> dict[str, Any]:
    """The annotations to evaluate on, checked; a synthetic set is generated where it is not there."""
    with comm.main_process_first():
        ensure_configured(config)
    if problem := missing_data(config, "val_ann", "val_images", "official_gt"):
        raise ValueError(problem)
    data, root = config.data, Path(config.data.root)
    masks = "segm" in detector_tasks(config.model.to_dict())
    content = load_annotations(root / data.val_ann, root / data.val_images, masks)
    if data.get("official_gt"):
        check_ground_truth_exists(root / data.official_gt, [image["file_name"] for image in content["images"]])
    return derive(content, supercategories=True) if data.supercategories else content


def _check_dump(prefix: str | Path) -> None:
    """Checks that predictions can be written, before there are any."""
    if Path(prefix).is_dir():
        raise ValueError(f"{prefix} is a folder; give what the names of its files begin with, such as "
                         f"{Path(prefix) / 'predictions'}")
    check_writable(Path(prefix).parent)


def check_record(detector: DetectorFile, config: Config, classes: Sequence[str]) -> None:
    """Compares what the checkpoint says of itself with the config and the data: equal shapes may be of other classes.

    Raises:
        CheckpointError: encoder or classes are others.
    """
    if detector.encoder is not None:
        check_same_encoder(detector.path, detector.encoder, config.model.backbone.to_dict()["encoder"])
    trained = list(detector.record.get("classes", classes))
    if trained != list(classes):
        raise CheckpointError(f"{detector.path} was trained on {_listed(trained)}, but {config.data.root} has "
                              f"{_listed(classes)}; evaluate it on the data set that it was trained on")


def _listed(classes: Sequence[str]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''})"


def _evaluation_config(
    config: Config, val_file: Path, classes: Sequence[str], coco_options: Mapping[str, Any]
) -> Config:
    """What mmengine's Runner needs to evaluate; it logs beside ``val_file``."""
    everything = copy.deepcopy(config.to_dict())
    plain = {key: everything[key] for key in _KEPT_KEYS if key in everything}
    images = Path(config.data.root).resolve() / config.data.val_images
    plain["val_dataloader"]["dataset"] |= dataset_options(val_file, images, classes)
    model = detector_config(config, classes)
    model["backbone"]["checkpoint"] = None  # all weights come from the detector's own
    return Config(dict(
        plain,
        model=model,
        val_evaluator=evaluators(config, val_file, classes, **coco_options),
        work_dir=str(val_file.parent),
        experiment_name=f"test_{time.time_ns()}",  # mmengine keeps one of a name in a process
        default_hooks=dict(param_scheduler=None, checkpoint=None),
        custom_hooks=[dict(type="ProgressBarHook")],
        launcher="none",  # without gradients nothing needs a wrapper: loader and metrics share among processes by themselves
    ), format_python_code=False)  # yapf would take as long as the evaluation of many images


def _metrics_of(prefix: str, metrics: Mapping[str, float]) -> dict[str, float | None]:
    """``{"bbox_AP": x, ...}`` -> ``{"AP": x, ...}`` of the names that begin with a prefix, with None for NaN."""
    return {
        key.removeprefix(prefix): None if math.isnan(value) else float(value)
        for key, value in metrics.items() if key.startswith(prefix)
    }
