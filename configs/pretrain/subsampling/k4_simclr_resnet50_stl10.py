"""SimCLR in 4 decoupled blocks on STL-10: 84.3 % in the paper (table 1)."""
_base_ = ["../../_base_/pretrain_decoupled_stl10.py"]
model = dict(rule=dict(k=4))
