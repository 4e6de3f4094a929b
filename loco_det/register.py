"""Importing this module makes mmdet usable and registers everything of ours that configs name."""

from loco_det.model.mmcv_ops import install_torchvision_kernels

install_torchvision_kernels()  # before anything of mmdet is imported

from mmdet.utils import register_all_modules

register_all_modules(init_default_scope=False)

import loco_det.datasets.dataset
import loco_det.datasets.sampling
import loco_det.evaluation.cityscapes_ap
import loco_det.evaluation.coco_ap
import loco_det.model.backbone
import loco_det.model.data_parallel
import loco_det.model.detector
import pretrain.engine.hooks
import pretrain.engine.optimizers
