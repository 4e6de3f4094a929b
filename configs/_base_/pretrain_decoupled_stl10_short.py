# A few epochs of STL-10's 5,000 labelled images at 64 px on a CPU, with a quarter of ResNet-18's width; numbers are ours.
_base_ = ["./pretrain_decoupled_stl10.py"]

model = dict(encoder=dict(_delete_=True, type="resnet18", stem="stl", width=16))
train_dataloader = dict(num_workers=1, dataset=dict(split="train", views=dict(size=64)))
train_cfg = dict(max_epochs=5)
default_hooks = dict(checkpoint=dict(interval=1))
