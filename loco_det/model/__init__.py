"""The detector: pretrained encoders as backbones, any of mmdet's detectors around them."""
