"""SimCLR end to end on STL-10, subsampled at T = -0.4: 86.7 % in the paper (table 1)."""
_base_ = ["./k1_simclr_resnet50_stl10.py"]
model = dict(objective=dict(threshold=-0.4))
