"""Cityscapes' official instance-level AP, computed by cityscapesscripts, as a metric of mmengine's evaluation."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as official
import numpy as np
import torch
from cityscapesscripts.helpers.labels import name2label
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from PIL import Image

from loco_det.datasets.cityscapes import CLASSES, instance_ids_file, read_instance_ids

if not hasattr(np, "in1d"):  # cityscapesscripts calls it; numpy 2.4 has only its successor
    np.in1d = np.isin


@METRICS.register_module()
class CityscapesAP(BaseMetric):
    """AP as the Cityscapes benchmark defines it, as ``official_AP`` and ``official_AP50`` in points 0 to 100.

    It is of masks, over the 8 thing classes and the overlaps 0.50 to 0.95. Unlike COCO's it integrates the precision-recall
    curve itself, leaves objects of fewer than 100 pixels out, has no limit of detections per image, and ignores predictions
    that lie mostly on group regions or unlabelled pixels. NaN where there is no object at all.

    mmdet's ``CityScapesMetric`` keeps all masks of all images as files in a folder of a fixed name, which it deletes when it
    starts, so that runs side by side destroy each other's; this one matches image by image.

    Args:
        ground_truth: folder of the instanceIds images, ``gtFine/<split>``.
        classes: names of the labels 0, 1, ...
        collect_device: see :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        ValueError: a class is not one that the benchmark evaluates.
    """

    default_prefix = None

    def __init__(self, ground_truth: str, classes: Sequence[str], collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device)
        unknown = [name for name in classes if name not in CLASSES]
        if unknown:
            raise ValueError(f"class {unknown[0]!r} is not among those that the Cityscapes benchmark evaluates: "
                             f"{', '.join(CLASSES)}; set data.official_gt=None to evaluate other classes by COCO's AP alone")
        self.ground_truth = ground_truth
        self._label_ids = [name2label[name].id for name in classes]

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Compares the predictions of a batch with the ground truth; a mask costs some 10 ms at 2048 x 1024 pixels.

        Args:
            data_batch: not used.
            data_samples: dicts with ``img_path`` and ``pred_instances``: ``labels`` ``(n,)``, ``scores`` ``(n,)``, where the
                detector has them ``mask_scores`` ``(n,)``, and ``masks`` ``(n, H, W)``.

        Raises:
            ValueError: a ground truth file is missing, damaged or of another size than the masks.
        """
        for sample in data_samples:
            file = instance_ids_file(self.ground_truth, sample["img_path"])
            self.results.append(_matches(file, sample["pred_instances"], self._label_ids))

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, np.float64]:
        """See :class:`mmengine.evaluator.BaseMetric`."""
        matches = {image: match for result in results for image, match in result.items()}
        args = _arguments()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice")  # NaN says it
            averages = official.computeAverages(official.evaluateMatches(matches, args), args)
        return {f"official_{name}": np.float64(100 * averages[key])
                for name, key in {"AP": "allAp", "AP50": "allAp50%"}.items()}


def _matches(file: Path, predicted: Mapping[str, Any], label_ids: Sequence[int]) -> dict[str, Any]:
    """cityscapesscripts' table of which predictions of an image overlap which objects, by how many pixels.

    Its functions are called one by one: ``evaluateImgLists`` would write ``matches.json`` into the current folder.
    """
    masks = torch.as_tensor(predicted["masks"]).bool().cpu().numpy()  # (n, H, W)
    scores = torch.as_tensor(predicted["mask_scores"] if "mask_scores" in predicted else predicted["scores"]).tolist()
    labels = torch.as_tensor(predicted["labels"]).tolist()
    size = read_instance_ids(file).shape  # cityscapesscripts does not say which file is damaged
    if masks.shape[1:] != size:
        raise ValueError(f"{file} is {size[1]} x {size[0]} pixels, but masks of {masks.shape[2]} x {masks.shape[1]} are "
                         "predicted; both must be of one release")
    with tempfile.TemporaryDirectory(prefix="cityscapes_ap_") as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`in1d` is deprecated", DeprecationWarning)
        args = _arguments(folder)
        lines = []
        for i, (label, score, mask) in enumerate(zip(labels, scores, masks, strict=True)):
            Image.fromarray(mask).save(Path(folder) / f"{i}.png", compress_level=1)
            lines.append(f"{i}.png {label_ids[label]} {score!r}\n")
        table = Path(folder) / "predictions.txt"
        table.write_text("".join(lines))
        return official.matchGtWithPreds([str(table)], [str(file)], official.instances2dict([str(file)]), args)


def _arguments(prediction_folder: str | None = None) -> official.CArgs:
    """cityscapesscripts' settings as they are, silent, in an object of our own: its own one is global."""
    args = copy.copy(official.args)
    args.quiet, args.predictionPath = True, prediction_folder
    official.setInstanceLabels(args)
    return args
