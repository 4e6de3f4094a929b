"""What processes under test begin with: the project and all that it imports on the way, even late."""

import contextlib
import gc
import importlib
import sys

from mmengine.config import Config

from tests.conftest import ROOT

MODULES = ("loco_det.experiment.evaluate", "loco_det.experiment.experiment", "loco_det.register", "loco_det.report.render",
           "pretrain.run", "tests.pretrain.fault_hook", "tests.pretrain.processes", "matplotlib.backends.backend_agg",
           "pkg_resources", "sklearn.linear_model", "timm", "torch._dynamo", "torch.utils.tensorboard")
with contextlib.redirect_stdout(sys.stderr):  # what mmdet prints must not wait in a buffer that the processes inherit
    for name in MODULES:
        importlib.import_module(name)
if (ROOT / "configs").is_dir():
    Config.fromfile(ROOT / "configs" / "mask_rcnn_demo.py", import_custom_modules=False)  # reads mmdet's lists of configs
gc.freeze()  # collections in the processes need not look at all this again
