"""LoCo-Det: transfer of pretrained encoders to Mask R-CNN, and the tables that come of it.

Importing the package is cheap; importing :mod:`loco_det.register` serves mmcv's kernels and registers every module that
configs name.
"""

__version__ = "0.1.0"
