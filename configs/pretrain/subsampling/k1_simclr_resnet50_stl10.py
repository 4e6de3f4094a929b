"""SimCLR end to end on STL-10: 87.6 % in the paper (table 1)."""
_base_ = ["../../_base_/pretrain_decoupled_stl10.py"]
