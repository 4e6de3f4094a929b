"""SimCLR end to end on STL-10, 5 epochs, subsampled at T = -0.4: minutes on a CPU."""
_base_ = ["./k1_simclr_resnet18_stl10_short.py"]
model = dict(objective=dict(threshold=-0.4))
