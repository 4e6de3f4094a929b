# Fashion-MNIST at its own 28 px, otherwise as CIFAR-10; "an easier dataset", so with ResNet-18 (Fournier et al., 2023,
# section 4).
_base_ = ["./pretrain_decoupled_cifar10.py"]

model = dict(encoder=dict(type="resnet18"))
data_preprocessor = dict(size=28)
train_dataloader = dict(dataset=dict(data_root="data/fashion_mnist", source="fashion_mnist"))
