"""SimCLR in 4 decoupled blocks on STL-10, 5 epochs: minutes on a CPU."""
_base_ = ["../../_base_/pretrain_decoupled_stl10_short.py"]
model = dict(rule=dict(k=4))
