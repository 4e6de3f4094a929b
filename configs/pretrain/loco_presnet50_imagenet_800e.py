"""LoCo with PResNet-50 on ImageNet-1K, 800 epochs (not in the paper)."""
_base_ = ["./loco_presnet50_imagenet_100e.py"]
train_cfg = dict(max_epochs=800)
