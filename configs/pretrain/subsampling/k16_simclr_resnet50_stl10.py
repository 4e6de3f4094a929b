"""SimCLR in 16 decoupled blocks on STL-10: 77.8 % in the paper (table 1)."""
_base_ = ["../../_base_/pretrain_decoupled_stl10.py"]
model = dict(rule=dict(k=16))
