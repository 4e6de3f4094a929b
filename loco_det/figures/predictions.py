"""A trained detector with the data it was evaluated on, found in its run directory, and what it finds in single images.

Everything is read as data: the config of a run is the one in its record, and no module that it names is imported.
"""

from __future__ import annotations

import importlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, MODELS, DefaultScope
from pycocotools import mask as coco_mask
from torch import nn

from loco_det.datasets.coco import derive, load_annotations
from loco_det.experiment.config import dataset_options, detector_config
from loco_det.experiment.evaluate import REGISTRATION, check_record, load_detector, read_detector
from pretrain.engine.checkpoints import checkpoint_files
from pretrain.engine.work_dir import RECORD_NAME, write_json
from pretrain.results.store import Record, RecordError, read_record

TYPE_NAME = re.compile(r"(mmdet\.)?\w+")  # mmengine imports whatever other dotted name a config has as a type
VAL_ANNOTATIONS = "annotations_val.json"  # in the run directory, see loco_det.experiment.experiment


@dataclass(frozen=True)
class Objects:
    """Objects of one image, annotated or found.

    Attributes:
        boxes: ``(N, 4)`` left, top, right, bottom in pixels of the original image.
        masks: ``(N, H, W)`` bool; None where there are boxes alone.
        labels: ``(N,)`` places in the classes.
        scores: ``(N,)`` 0 to 1, descending; None for annotations.
        crowd: ``(N,)`` bool, whether it is a region of many.
    """

    boxes: np.ndarray
    masks: np.ndarray | None
    labels: np.ndarray
    scores: np.ndarray | None
    crowd: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def best(self, count: int) -> Objects:
        """The first ``count``, which of predictions are those of the highest scores."""
        scores, masks = (None if values is None else values[:count] for values in (self.scores, self.masks))
        return Objects(self.boxes[:count], masks, self.labels[:count], scores, self.crowd[:count])

    @property
    def best_score(self) -> float | None:
        """Of predictions; None where there are none."""
        return float(self.scores[0]) if len(self) else None

    def of_score(self, threshold: float) -> Objects:
        """Predictions whose scores reach a threshold."""
        return self.best(int((self.scores >= threshold).sum()))


@dataclass(frozen=True)
class TrainedDetector:
    """A detector of ``tools/train_det.py`` on disk.

    Attributes:
        checkpoint: its file.
        record: of the experiment.
        config: of the experiment, as data.
        annotations: what it was evaluated on.
        images: folder that the images of ``annotations`` are in.
    """

    checkpoint: Path
    record: Record
    config: Config
    annotations: Mapping[str, Any]
    images: Path

    @property
    def classes(self) -> list[str]:
        """Names in the order of labels."""
        return self.record.content["classes"]

    def image_file(self, image_id: int) -> Path:
        """The file of an image."""
        return self.images / next(image["file_name"] for image in self.annotations["images"] if image["id"] == image_id)


def find_detector(path: str | Path, split: int = 0, data_root: str | Path | None = None) -> TrainedDetector:
    """Finds what a detector needs in its run directory; loads no weights.

    Args:
        path: the run directory, or one of its checkpoints.
        split: of the run directory, whose newest checkpoint is taken.
        data_root: folder of the data set; None for where it lay when the detector was trained.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: it is neither, or annotations or images are not there or broken.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; pass a run directory of tools/train_det.py or a checkpoint in one")
    folder = path / f"split_{split}" if path.is_dir() else path.parent
    checkpoints = checkpoint_files(folder) if path.is_dir() else [path]
    if not checkpoints:
        have = sorted(other.name for other in path.glob("split_*") if checkpoint_files(other))
        fix = f"choose one of {', '.join(have)} with --split" if have else "pass a run directory of tools/train_det.py"
        raise ValueError(f"{folder} has no checkpoint; {fix}")
    annotations = folder.parent / VAL_ANNOTATIONS
    try:
        record = read_record(folder.parent / RECORD_NAME)
        config = _config(record)
        folder_of_data = Path(data_root or record.content["data_root"])
        images = folder_of_data / config.data.val_images
    except (RecordError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{checkpoints[0]} does not lie in a run directory of tools/train_det.py ({error}); leave a "
                         "checkpoint where it was written") from error
    if not images.is_dir():
        raise ValueError(f"the images that {path} was evaluated on are not in {images}; say with --data-root where the data "
                         "set is")
    content = load_annotations(annotations, images, masks="segm" in record.content["tasks"])
    return TrainedDetector(checkpoints[0], record, config, content, images)


def _config(record: Record) -> Config:
    """The config of an experiment, of which JSON has made lists of the tuples that transforms of images need.

    Raises:
        ValueError: a type in it is another dotted name than those of mmdet.
    """
    _check_types(record.content["config"])
    config = Config(record.content["config"])
    for step in config.val_dataloader.dataset.pipeline:
        step.update({key: tuple(value) for key, value in step.items() if isinstance(value, list)})
    return config


def _check_types(value: Any) -> None:
    if isinstance(value, Mapping) and not TYPE_NAME.fullmatch(str(value.get("type", "x"))):
        raise ValueError(f"type {value['type']!r} in its config is not the name of a registered class")
    for child in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _check_types(child)


def annotated_objects(detector: TrainedDetector, image_id: int) -> Objects:
    """The ground truth of an image, crowd regions included, the largest boxes first."""
    image = next(image for image in detector.annotations["images"] if image["id"] == image_id)
    found = [annotation for annotation in detector.annotations["annotations"] if annotation["image_id"] == image_id]
    found.sort(key=lambda annotation: -annotation["bbox"][2] * annotation["bbox"][3])
    places = {category["id"]: place for place, category in enumerate(detector.annotations["categories"])}
    height, width = image["height"], image["width"]
    boxes = np.array([annotation["bbox"] for annotation in found], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = [_decoded(annotation["segmentation"], height, width) for annotation in found if annotation.get("segmentation")]
    return Objects(
        boxes=boxes,
        masks=np.array(masks, dtype=bool).reshape(-1, height, width) if len(masks) == len(found) else None,
        labels=np.array([places[annotation["category_id"]] for annotation in found], dtype=np.int64),
        scores=None,
        crowd=np.array([bool(annotation.get("iscrowd")) for annotation in found], dtype=bool),
    )


def _decoded(segmentation: Any, height: int, width: int) -> np.ndarray:
    """COCO's polygons or run lengths, compressed or not -> ``(H, W)`` bool."""
    if isinstance(segmentation, list):
        run_lengths = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        run_lengths = coco_mask.frPyObjects(segmentation, height, width)
    else:
        run_lengths = segmentation
    return coco_mask.decode(run_lengths).astype(bool)


@torch.no_grad()
def predict(
    detector: TrainedDetector, image_ids: Sequence[int], score_threshold: float, device: torch.device
) -> dict[int, Objects]:
    """What a detector finds in images, through its own test pipeline, with scores of at least ``score_threshold``.

    Raises:
        ValueError: the checkpoint does not fit the run's config.
    """
    importlib.import_module(REGISTRATION)
    with tempfile.TemporaryDirectory() as folder, DefaultScope.overwrite_default_scope("mmdet"):
        ann_file = Path(folder) / VAL_ANNOTATIONS
        write_json(ann_file, derive(detector.annotations, image_ids))
        options = detector.config.val_dataloader.dataset.to_dict()
        options |= dataset_options(ann_file, detector.images.resolve(), detector.classes)
        options["serialize_data"] = False  # for a few images it takes longer than to predict
        dataset = DATASETS.build(options)
        model = _load(detector).to(device)
        found = {}
        for index in range(len(dataset)):
            sample = dataset[index]
            [result] = model.test_step({key: [value] for key, value in sample.items()})
            found[result.img_id] = _above(result.pred_instances.cpu().numpy(), score_threshold)
    return found


def _load(detector: TrainedDetector) -> nn.Module:
    file = read_detector(detector.checkpoint)
    check_record(file, detector.config, detector.classes)
    model = MODELS.build(ConfigDict(detector_config(detector.config, detector.classes)))
    load_detector(model, file)
    return model.eval()


def _above(found: Any, score_threshold: float) -> Objects:
    """mmdet's instances of one image whose score reaches the threshold, the best first."""
    order = np.argsort(-found.scores, kind="stable")
    order = order[found.scores[order] >= score_threshold]
    masks = found.masks[order].astype(bool) if "masks" in found else None
    return Objects(found.bboxes[order], masks, found.labels[order], found.scores[order], np.zeros(len(order), dtype=bool))
