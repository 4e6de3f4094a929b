"""A trained detector with the data it was evaluated on, found in its run directory, and what it finds in single images.

Everything is read as data: the config of a run is the one in its record, and no module that it names is imported.
"""

from __future__ import annotations

import importlib
import json
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

from loco_det.datasets.coco import derive, load_annotations
from loco_det.experiment.config import dataset_options, detector_config
from loco_det.experiment.evaluate import check_record, load_detector, read_detector
from loco_det.experiment.inputs import REGISTRATION
from pretrain.engine.checkpoints import checkpoint_files
from pretrain.engine.work_dir import RECORD_NAME, write_json
from pretrain.results.store import Record, read_record

FOREIGN_TYPE = re.compile(r'"type": "((?!mmdet\.\w+")\w*\.[^"]*)"')  # mmengine imports such a dotted name
VAL_ANNOTATIONS = "annotations_val.json"  # in the run directory, see loco_det.experiment.experiment


@dataclass(frozen=True)
class Objects:
    """Objects of one image, annotated or found.

    Attributes:
        boxes: ``(N, 4)`` left, top, right, bottom in pixels of the original image.
        masks: ``(N, H, W)`` bool; None where there are boxes alone.
        labels: ``(N,)`` indices of the classes.
        scores: ``(N,)`` 0 to 1, descending; None for annotations.
    """

    boxes: np.ndarray
    masks: np.ndarray | None
    labels: np.ndarray
    scores: np.ndarray | None

    def __len__(self) -> int:
        return len(self.labels)

    def best(self, count: int) -> Objects:
        """The first ``count``, which of predictions are those of the highest scores."""
        scores, masks = (None if values is None else values[:count] for values in (self.scores, self.masks))
        return Objects(self.boxes[:count], masks, self.labels[:count], scores)


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

    def image(self, image_id: int) -> Mapping[str, Any]:
        """COCO's entry of an image."""
        return next(image for image in self.annotations["images"] if image["id"] == image_id)


def find_detector(path: str | Path, split: int = 0, data_root: str | Path | None = None) -> TrainedDetector:
    """Finds what a detector needs in its run directory; loads no weights.

    Args:
        path: the run directory, or one of its checkpoints.
        split: of the run directory, whose newest checkpoint is taken.
        data_root: folder of the data set; None for where it lay when the detector was trained.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: there is no checkpoint, or record, annotations or images are not there or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; pass a run directory of tools/train_det.py or a checkpoint in one")
    folder = path / f"split_{split}" if path.is_dir() else path.parent
    checkpoints = checkpoint_files(folder) if path.is_dir() else [path]
    if not checkpoints:
        raise ValueError(f"{folder} has no checkpoint; pass a run directory of tools/train_det.py, or another --split")
    record = read_record(folder.parent / RECORD_NAME)
    if "classes" not in record.content:
        raise ValueError(f"{checkpoints[0]} is not in a run directory of tools/train_det.py; leave a checkpoint where it "
                         "was written")
    if foreign := FOREIGN_TYPE.search(json.dumps(record.content["config"])):
        raise ValueError(f"type {foreign[1]!r} in the config of {record.path} is not the name of a registered class")
    config = Config(record.content["config"])
    for step in config.val_dataloader.dataset.pipeline:  # JSON has made lists of tuples
        step.update({key: tuple(value) for key, value in step.items() if isinstance(value, list)})
    images = Path(data_root or record.content["data_root"]) / config.data.val_images
    if not images.is_dir():
        raise ValueError(f"the images that {path} was evaluated on are not in {images}; say with --data-root where the data "
                         "set is")
    annotations = load_annotations(folder.parent / VAL_ANNOTATIONS, images, masks="segm" in record.content["tasks"])
    return TrainedDetector(checkpoints[0], record, config, annotations, images)


def annotated_objects(detector: TrainedDetector, image_id: int) -> Objects:
    """The ground truth of an image, crowd regions included, the largest boxes first."""
    image = detector.image(image_id)
    found = [annotation for annotation in detector.annotations["annotations"] if annotation["image_id"] == image_id]
    found.sort(key=lambda annotation: -annotation["bbox"][2] * annotation["bbox"][3])
    indices = {category["id"]: index for index, category in enumerate(detector.annotations["categories"])}
    boxes = np.array([annotation["bbox"] for annotation in found], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    segmentations = [annotation["segmentation"] for annotation in found if annotation.get("segmentation")]
    masks = None
    if len(segmentations) == len(found):
        decoded = [_decoded(segmentation, image["height"], image["width"]) for segmentation in segmentations]
        masks = np.array(decoded, dtype=bool).reshape(-1, image["height"], image["width"])
    labels = np.array([indices[annotation["category_id"]] for annotation in found], dtype=np.int64)
    return Objects(boxes, masks, labels, scores=None)


def _decoded(segmentation: Any, height: int, width: int) -> np.ndarray:
    """COCO's polygons or run lengths, compressed or not -> ``(H, W)`` bool."""
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.decode(segmentation).astype(bool)


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
        dataset = DATASETS.build(options | {"serialize_data": False})  # which takes longer than to predict a few images
        file = read_detector(detector.checkpoint)
        check_record(file, detector.config, detector.classes)
        model = MODELS.build(ConfigDict(detector_config(detector.config, detector.classes)))
        load_detector(model, file)
        model.eval().to(device)
        found = {}
        for sample in dataset:
            [result] = model.test_step({key: [value] for key, value in sample.items()})
            found[result.img_id] = _above(result.pred_instances.cpu().numpy(), score_threshold)
    return found


def _above(found: Any, score_threshold: float) -> Objects:
    """mmdet's instances of one image whose score reaches the threshold, the best first."""
    order = np.argsort(-found.scores, kind="stable")
    order = order[found.scores[order] >= score_threshold]
    masks = found.masks[order].astype(bool) if "masks" in found else None
    return Objects(found.bboxes[order], masks, found.labels[order], found.scores[order])
