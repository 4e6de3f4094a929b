"""Importing this module makes mmdet usable and registers everything of ours that configs name."""

from loco_det.model.mmcv_ops import install_torchvision_kernels

install_torchvision_kernels()  # before anything of mmdet is imported

from mmdet.utils import register_all_modules  # noqa: E402

register_all_modules(init_default_scope=False)

import loco_det.datasets.dataset  # noqa: E402
import loco_det.datasets.sampling  # noqa: E402
import loco_det.evaluation.cityscapes_ap  # noqa: E402
import loco_det.evaluation.coco_ap  # noqa: E402
import loco_det.model.backbone  # noqa: E402
import loco_det.model.data_parallel  # noqa: E402
import loco_det.model.detector  # noqa: E402, F401
import pretrain.engine.hooks  # noqa: E402
import pretrain.engine.optimizers  # noqa: E402, F401
