"""SimCLR in 8 decoupled blocks on STL-10, 5 epochs, subsampled at T = -0.4: minutes on a CPU."""
_base_ = ["./k8_simclr_resnet18_stl10_short.py"]
model = dict(objective=dict(threshold=-0.4))
