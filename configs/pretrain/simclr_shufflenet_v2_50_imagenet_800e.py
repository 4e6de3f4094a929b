"""SimCLR with ShuffleNet v2-50 on ImageNet-1K, 800 epochs (LoCo, Tables 1 and 2)."""
_base_ = ["./simclr_shufflenet_v2_50_imagenet_100e.py"]
train_cfg = dict(max_epochs=800)
