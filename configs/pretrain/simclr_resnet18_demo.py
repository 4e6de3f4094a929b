"""SimCLR on the embedded synthetic data set; minutes on two cores."""
_base_ = ["../_base_/pretrain_simclr.py", "../_base_/pretrain_demo.py"]
model = dict(encoder=dict(type="resnet18", stem="stl", width=16), objective=dict(temperature=0.2), channels_last=True)
