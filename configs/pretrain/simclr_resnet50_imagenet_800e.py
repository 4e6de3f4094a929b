"""SimCLR with ResNet-50 on ImageNet-1K, 800 epochs (LoCo, Tables 1 to 3)."""
_base_ = ["./simclr_resnet50_imagenet_100e.py"]
train_cfg = dict(max_epochs=800)
