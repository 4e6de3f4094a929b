"""SimCLR in 16 decoupled blocks on STL-10, subsampled at T = -0.4: 78.8 % in the paper (table 1)."""
_base_ = ["./k16_simclr_resnet50_stl10.py"]
model = dict(objective=dict(threshold=-0.4))
