"""What processes under test begin with: the project and all that it imports on the way, even late."""

import gc

import matplotlib.backends.backend_agg  # noqa: F401
import pkg_resources  # noqa: F401
import sklearn.linear_model  # noqa: F401
import timm  # noqa: F401
import torch._dynamo
import torch.utils.tensorboard  # noqa: F401

import loco_det.experiment.evaluate
import loco_det.experiment.experiment
import loco_det.register
import loco_det.report.render  # noqa: F401
import pretrain.run  # noqa: F401
import tests.pretrain.fault_hook  # noqa: F401
import tests.pretrain.processes  # noqa: F401

gc.freeze()  # collections in the processes need not look at all this again
