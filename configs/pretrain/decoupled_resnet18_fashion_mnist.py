"""SimCLR in model.rule.k decoupled blocks on Fashion-MNIST (Fournier et al., 2023, table 2)."""
# Subsampled: model.objective.threshold=0.3. At 28 px; "an easier dataset", so with ResNet-18 (section 4).
_base_ = ["./decoupled_resnet50_cifar10.py"]

model = dict(encoder=dict(type="resnet18"))
data_preprocessor = dict(size=28)
train_dataloader = dict(dataset=dict(data_root="data/fashion_mnist", source="fashion_mnist"))
