"""LoCo-Det: transfer of pretrained encoders to Mask R-CNN, and result tables.

Importing the package is cheap; importing :mod:`loco_det.register` serves mmcv's kernels and registers every module that
configs name.
"""

__version__ = "0.1.0"
