# "weights pretrained on ImageNet via supervised learning provided by PyTorch" (LoCo, section 5.2, footnote 1).
pretrained = dict(
    method="supervised",
    checkpoint="backbones/resnet50-19c8e357.pth",
    hint="Get https://download.pytorch.org/models/resnet50-19c8e357.pth and put it there",
)
