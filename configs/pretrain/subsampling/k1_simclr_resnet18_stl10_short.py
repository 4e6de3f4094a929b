"""SimCLR end to end on STL-10, 5 epochs: minutes on a CPU."""
_base_ = ["../../_base_/pretrain_decoupled_stl10_short.py"]
