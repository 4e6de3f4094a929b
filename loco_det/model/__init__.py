"""Pretrained encoders as mmdet backbones, Mask R-CNN with autocast, mmcv's kernels."""
