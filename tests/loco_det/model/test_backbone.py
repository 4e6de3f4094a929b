"""Pretraining encoders as mmdet backbones: same features, really frozen."""

from __future__ import annotations

import pytest
import torch

import loco_det.register  # noqa: F401  isort: skip
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from loco_det.model.backbone import PretrainedEncoder
from pretrain.encoders import build_encoder
from pretrain.engine.checkpoints import FORMAT, FORMAT_VERSION, CheckpointError
from pretrain.results.method import standard_method


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A ResNet-50 with batch norm statistics that are not the initial ones, as an exported backbone."""
    torch.manual_seed(0)
    encoder = build_encoder("resnet50")
    with torch.no_grad():
        for _ in range(2):
            encoder(torch.randn(4, 3, 64, 64) * 2 + 1)
    path = tmp_path_factory.mktemp("backbones") / "resnet50.pth"
    meta = dict(format=FORMAT, version=FORMAT_VERSION, method=standard_method("loco"),
                setting=dict(encoder=dict(type="resnet50")))
    torch.save({"state_dict": encoder.state_dict(), "meta": meta}, path)
    return encoder.eval(), str(path)


def test_features_equal_the_encoders_and_mmdets_own(exported):
    """The same file in our backbone and in mmdet's ResNet-50 gives the pretraining encoder's features."""
    encoder, path = exported
    ours = PretrainedEncoder("resnet50", checkpoint=path).eval()
    init_default_scope("mmdet")
    theirs = MODELS.build(dict(type="ResNet", depth=50, style="pytorch", init_cfg=dict(type="Pretrained", checkpoint=path)))
    theirs.init_weights()
    theirs.eval()
    images = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        expected = list(encoder(images).values())
        for found in (ours(images), theirs(images)):
            assert len(found) == 4
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("frozen", range(5))
def test_frozen_depth_survives_train(frozen):
    """Below the cut: no gradient, eval mode, statistics untouched; above: trained."""
    torch.manual_seed(0)
    backbone = PretrainedEncoder("resnet18", frozen_stages=frozen)
    backbone.train(False).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    features = backbone(torch.randn(4, 3, 64, 64))
    assert [f.requires_grad for f in features] == [i >= frozen for i in range(4)]
    if frozen < 4:
        sum(f.sum() for f in features if f.requires_grad).backward()
        torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], 0.1).step()
    frozen_blocks = [backbone.encoder.block(i) for i in range(2 * frozen)]  # two blocks a stage
    frozen_tensors = {id(t) for block in frozen_blocks for t in [*block.parameters(), *block.buffers()]}
    for key, value in backbone.state_dict(keep_vars=True).items():
        assert torch.equal(value, before[key]) == (id(value) in frozen_tensors), key


def test_norm_eval_keeps_statistics_but_trains_weights():
    """As mmdet's flag of the same name."""
    backbone = PretrainedEncoder("resnet18", frozen_stages=1, norm_eval=True).train()
    before = backbone.encoder.layer4[0].bn1.running_mean.clone()
    backbone(torch.randn(4, 3, 64, 64))[-1].sum().backward()
    assert torch.equal(before, backbone.encoder.layer4[0].bn1.running_mean)
    assert backbone.encoder.layer4[0].bn1.weight.grad is not None
    assert backbone.encoder.conv1.weight.grad is None


def test_sync_bn_and_out_stages():
    """SyncBN everywhere on request; only the named stages come out."""
    backbone = PretrainedEncoder("resnet18", sync_bn=True, out_stages=["res3", "res5"])
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(m, torch.nn.SyncBatchNorm) for m in norms)
    assert [f.shape[1] for f in backbone.eval()(torch.randn(1, 3, 64, 64))] == [128, 512]


def test_initialisation_of_the_detector_does_not_touch_it(exported):
    """mmengine calls init_weights on every module before training."""
    encoder, path = exported
    backbone = PretrainedEncoder("resnet50", checkpoint=path)
    backbone.init_weights()
    assert all(torch.equal(v, encoder.state_dict()[k]) for k, v in backbone.encoder.state_dict().items())


def test_bad_arguments_are_refused(exported):
    """Wrong encoder, depth or stage; each with its value."""
    with pytest.raises(CheckpointError, match="holds the encoder resnet50, but resnet18 is needed"):
        PretrainedEncoder("resnet18", checkpoint=exported[1])
    with pytest.raises(ValueError, match="frozen_stages is 5; the encoder has 4 stages"):
        PretrainedEncoder("resnet18", frozen_stages=5)
    assert PretrainedEncoder("resnet18", frozen_stages="all").frozen_stages == 4
    with pytest.raises(ValueError, match="frozen_stages is 'some'"):
        PretrainedEncoder("resnet18", frozen_stages="some")
    with pytest.raises(ValueError, match="no stage 'res6'"):
        PretrainedEncoder("resnet18", out_stages=["res6"])
