"""SimCLR in 8 decoupled blocks on STL-10, subsampled at T = -0.4: 79.7 % in the paper (table 1)."""
_base_ = ["./k8_simclr_resnet50_stl10.py"]
model = dict(objective=dict(threshold=-0.4))
