"""The detection data set: mmdet's, with images decoded as in pretraining and corrupt ones reported and skipped."""

from __future__ import annotations

import random

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS, TRANSFORMS
from PIL import Image

from pretrain.data.dataset import SampleKey
from pretrain.data.decoding import CorruptImageError, decode_image


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Decodes ``results["img_path"]`` as pretraining does (:func:`pretrain.data.decoding.decode_image`), to BGR uint8."""

    def transform(self, results: dict) -> dict:
        """Adds ``img`` ``(H, W, 3)``, ``img_shape`` and ``ori_shape``."""
        image = np.asarray(decode_image(results["img_path"]))[:, :, ::-1]
        annotated = (results.get("height"), results.get("width"))
        if None not in annotated and annotated != image.shape[:2]:
            raise ValueError(f"{results['img_path']} is {image.shape[1]} x {image.shape[0]} pixels (upright by its EXIF "
                             f"data) but annotated as {annotated[1]} x {annotated[0]}; fix the image or its annotation")
        results["img"] = np.ascontiguousarray(image)
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results


@DATASETS.register_module()
class CocoInstances(CocoDataset):
    """A COCO-format set whose classes come from the config, never from a built-in list.

    In training, a corrupt image is replaced by another, drawn at random as mmdet does for images without usable annotations,
    and flagged for :func:`pretrain.data.dataset.check_corrupt`. In evaluation it is an error: without it the AP would be
    another.

    Attributes:
        corrupt: ``(len,)`` uint8 in shared memory, 1 where decoding failed in any worker.
    """

    METAINFO = {"classes": (), "palette": None}

    def full_init(self) -> None:
        """Loads the annotations, then allocates the flags."""
        super().full_init()
        self.corrupt = torch.zeros(len(self), dtype=torch.uint8).share_memory_()

    def load(self, index: int) -> Image.Image:
        """Decodes image ``index``."""
        return decode_image(self.get_data_info(index)["img_path"])

    def __getitem__(self, key: SampleKey | int) -> dict:
        """A sample; of a :class:`~pretrain.data.dataset.SampleKey` a function of the key alone, whichever worker asks."""
        if not isinstance(key, SampleKey):
            return super().__getitem__(key)
        seeds = np.random.SeedSequence(key).generate_state(3)  # mmdet's transforms draw from the global generators
        np.random.seed(seeds[0])
        random.seed(int(seeds[1]))
        torch.default_generator.manual_seed(int(seeds[2]))
        return super().__getitem__(key.index)

    def prepare_data(self, idx: int) -> dict | None:
        """One sample, or None for a corrupt training image (the caller then draws another)."""
        try:
            return super().prepare_data(idx)
        except CorruptImageError:
            if self.test_mode:
                raise
            self.corrupt[idx] = 1
            return None
