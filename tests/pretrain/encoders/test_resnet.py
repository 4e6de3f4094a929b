"""ResNets: exchange with torchvision, stages, and the stems of the second paper."""

from __future__ import annotations

import pytest
import torch
import torchvision

from pretrain.encoders import ResNetEncoder, build_encoder
from tests.pretrain.encoders.measure import build_on_meta, shares, stage_macs


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
@torch.no_grad()
def test_weights_are_torchvisions(name):
    """The state dict is torchvision's without the classifier, and the same weights give the same features."""
    torch.manual_seed(0)
    reference = torchvision.models.get_model(name).eval()
    weights = {key: value for key, value in reference.state_dict().items() if not key.startswith("fc.")}
    encoder = build_encoder(name).eval()
    encoder.load_state_dict(weights, strict=True)
    reference.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(encoder(images)["res5"].mean((2, 3)), reference(images), rtol=1e-6, atol=1e-6)


def test_flops_shares_of_resnet50():
    """LoCo, table 6, which counts 4.14 G: 19.39 / 25.09 / 35.80 / 19.73 % to 0.2 points with convolutions alone."""
    macs = stage_macs(build_on_meta("resnet50"), 224)
    assert sum(macs.values()) == pytest.approx(4.14e9, rel=0.015)
    assert shares(macs) == pytest.approx([19.39, 25.09, 35.80, 19.73], abs=0.2)


@pytest.mark.parametrize(("stem", "size", "side", "stride", "kernel"), [
    ("imagenet", 224, 56, 4, 7), ("stl", 224, 113, 2, 5), ("stl", 96, 49, 2, 5), ("small", 32, 32, 1, 3),
])
def test_stems(stem, size, side, stride, kernel):
    """The second paper's appendix: kernel 5 and stride 2, or kernel 3 and stride 1, without max-pool."""
    encoder = build_on_meta(dict(type="resnet50", stem=stem))
    assert encoder.conv1.kernel_size == (kernel, kernel)
    assert hasattr(encoder, "maxpool") == (stem == "imagenet")
    assert encoder.run(torch.empty(1, 3, size, size, device="meta"), 0, 1).shape == (1, 256, side, side)
    assert [encoder.block_strides[end - 1] for _, end in encoder.stages.values()] == [stride * 2**i for i in range(4)]


@pytest.mark.parametrize(("stem", "size", "macs"), [("small", 32, 1.31e9), ("stl", 224, 17.1e9)])
def test_stems_reproduce_the_second_papers_macs(stem, size, macs):
    """Its table for K = 1, from the convolutions alone; padding 2 in the stl stem would be too little by 2.4 %."""
    found = sum(stage_macs(build_on_meta(dict(type="resnet50", stem=stem)), size).values())
    assert found == pytest.approx(macs, rel=0.022)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_width(name):
    """A quarter of the width: a sixteenth of the work of every residual convolution, head blocks to match."""
    wide, narrow = (build_on_meta(dict(type=name, stem="small", width=width)) for width in (64, 16))
    assert narrow.block_channels == tuple(channels // 4 for channels in wide.block_channels)
    for stage in ("res3", "res4", "res5"):  # res2's share contains the stem
        assert stage_macs(narrow, 32)[stage] * 16 == stage_macs(wide, 32)[stage]
    channels = narrow.block_channels[-1]
    with torch.device("meta"):
        assert narrow.head_block(narrow.num_blocks - 1, 2)(torch.empty(1, channels, 4, 4)).shape == (1, channels, 2, 2)
    assert dict(narrow.named_parameters()).keys() == dict(wide.named_parameters()).keys()


@pytest.mark.parametrize("options", [dict(stem="cifar"), dict(width=0)])
def test_bad_options_are_refused(options):
    """The value is named."""
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        build_encoder(dict(type="resnet18", **options))


@torch.no_grad()
def test_any_resnet_of_torchvisions_is_wrapped():
    """Wide, grouped and dilated ones: the model's own layers, with the maps, channels and strides that it has."""
    net = torchvision.models.resnext50_32x4d(replace_stride_with_dilation=[False, False, True]).eval()
    encoder = ResNetEncoder(net)
    assert encoder.conv1 is net.conv1
    assert encoder.stages == {"res2": (0, 3), "res3": (3, 7), "res4": (7, 13), "res5": (13, 16)}
    for (_, end), features in zip(encoder.stages.values(), encoder(torch.randn(1, 3, 64, 64)).values(), strict=True):
        stride = int(encoder.block_strides[end - 1])
        assert features.shape == (1, encoder.block_channels[end - 1], 64 // stride, 64 // stride)
    assert encoder.block_strides[-1] == 16
