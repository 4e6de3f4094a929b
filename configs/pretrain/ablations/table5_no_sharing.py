"""Table 5, "No sharing": 65.1 % in the paper; the same run as Table 4, "1 conv block", local."""
_base_ = ["./table4_1conv_local.py"]
