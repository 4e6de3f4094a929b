"""Table 5, "Sharing 1 stage": 66.2 % in the paper; the same run as Table 4, "Ours"."""
_base_ = ["./table4_ours.py"]
