"""What encoders cost: the papers' numbers, and counts made in other ways."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from pretrain.costs.complexity import BATCH, stage_complexity, unit_macs
from pretrain.encoders import Encoder, build_encoder
from pretrain.engine.cli import parse_encoder
from pretrain.local.units import LocalUnit, build_units
from tests.conftest import assert_one_line_error


class ThreeConvolutions(Encoder):
    """conv, batch norm and in-place ReLU as the stem, a 1x1 convolution; a second stage that needs 3 px of room."""

    stages = {"first": (0, 1), "second": (1, 2)}
    block_layers = (("stem", "norm", "relu", "pointwise"), ("strided",))
    block_channels = (8, 8)
    block_strides = (1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.pointwise, self.strided = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, stride=2)

    def head_block(self, index: int, stride: int) -> nn.Module:
        raise NotImplementedError


@pytest.mark.parametrize(("name", "gflops", "percent"), [
    ("resnet50", 4.14, [19.39, 25.09, 35.80, 19.73]),
    ("presnet50", 4.16, [13.50, 14.63, 14.77, 16.62, 20.45, 20.04]),
])
def test_computation_of_table_6(name, gflops, percent):
    """LoCo, table 6: FLOPs of the convolutions within 1.5 % of the total and 0.2 points of every share."""
    complexity = stage_complexity(build_encoder(name))
    assert complexity.total("flops") / 1e9 == pytest.approx(gflops, rel=0.015)
    assert [*complexity.percent("flops").values()] == pytest.approx(percent, abs=0.2)


@pytest.mark.parametrize("spec", ["resnet18", "shufflenet_v2_50", parse_encoder("timm/convnext_atto")])
def test_units_add_up_to_what_stages_cost(spec):
    """Units that are the stages cost what the stages do, the whole what all do, and overlapping ones what both reach."""
    encoder = build_encoder(spec)
    stages = [stage.flops for stage in stage_complexity(encoder, 64).stages]
    assert unit_macs(encoder, build_units("gim", encoder.stages), 64) == stages
    assert unit_macs(encoder, build_units("simclr", encoder.stages), 64) == [sum(stages)]
    loco = unit_macs(encoder, build_units("loco", encoder.stages), 64)
    assert loco == [stages[0], *(lower + upper for lower, upper in pairwise(stages))]


@pytest.mark.parametrize(("name", "percent"), [
    ("resnet50", [43.64, 29.09, 21.82, 5.45]),
    ("presnet50_res4_128", [15.46, 10.96, 19.48, 17.31, 19.48, 17.31]),
])
def test_memory_of_table_6(name, percent):
    """LoCo, table 6: the memory column to its last decimal."""
    assert [*stage_complexity(build_encoder(name)).percent("memory_elements").values()] == pytest.approx(percent, abs=0.02)


@pytest.mark.parametrize(("name", "gflops"), [("presnet50_printed", 3.79), ("shufflenet_v2_50", 2.30)])
def test_computation_of_other_networks(name, gflops):
    """PResNet-50 by the letter of LoCo's supplement, and ShuffleNet v2-50 as its paper's table of large models has it."""
    assert stage_complexity(build_encoder(name)).total("flops") / 1e9 == pytest.approx(gflops, rel=0.01)


def test_totals_are_torchvisions():
    """Parameters are those of the whole network without its classifier, shapes those of its maps at 224 px."""
    complexity = stage_complexity(build_encoder("resnet50"))
    reference = resnet50()
    assert complexity.total("parameters") == sum(p.numel() for p in reference.parameters()) - 2048 * 1000 - 1000
    assert [stage.out_shape for stage in complexity.stages] == [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]


@pytest.mark.parametrize("spec", ["resnet18", "presnet50", "shufflenet_v2_50", parse_encoder("timm/convnext_atto")])
def test_flops_are_those_of_the_formula(spec):
    """Outputs times inputs per output, noted by every convolution and linear layer on a real image."""
    encoder = build_encoder(spec).eval()
    noted = []
    for layer in encoder.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(lambda layer, _, out: noted.append(out.numel() * layer.weight[0].numel()))
    with torch.no_grad():
        encoder(torch.randn(1, 3, 64, 64))
    expected = sum(noted)  # counting runs a copy, which has these hooks too
    assert stage_complexity(encoder, 64).total("flops") == expected


def test_counts_of_a_network_small_enough_to_do_by_hand():
    """The stem is no residual branch; a storage that two layers save counts once, and in the stage that saves it first."""
    first, second = stage_complexity(ThreeConvolutions(), 6).stages
    batch_norm = 2 * 4 * 4 / BATCH  # mean and deviation, of the batch
    assert (first.memory_elements, second.memory_elements) == (8 * 6 * 6, 8 * 2 * 2)
    assert first.activation_bytes == 4 * (4 * 6 * 6 + 4 * 6 * 6) + batch_norm  # input of the batch norm, output of the ReLU
    assert second.activation_bytes == 4 * 8 * 6 * 6
    assert (first.flops, second.flops) == (36 * (4 * 27 + 8 * 4), 4 * 8 * 72)


@pytest.mark.parametrize("spec", ["resnet18", "presnet50", "shufflenet_v2_50", parse_encoder("timm/convnext_atto")])
def test_activations_are_those_of_a_real_run(spec):
    """What autograd saves on real images, told apart by address instead of by storage."""
    encoder = build_encoder(spec).train()
    saved = {}
    images = torch.randn(BATCH, 3, 64, 64)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.setdefault(t.untyped_storage().data_ptr(), t) is None or t, lambda t: t
    ):
        features = encoder(images)
    own = {t.untyped_storage().data_ptr() for t in (images, *encoder.parameters(), *encoder.buffers())}
    real = sum(t.untyped_storage().nbytes() for address, t in saved.items() if address not in own)
    complexity = stage_complexity(encoder, 64)
    assert complexity.total("activation_bytes") == real / BATCH
    assert [stage.out_shape for stage in complexity.stages] == [tuple(x.shape[1:]) for x in features.values()]


def test_the_encoder_stays_as_it_is():
    """Frozen, in eval mode and in half precision, an encoder costs the same, and counting changes nothing of that."""
    encoder = build_encoder("resnet18")
    expected = stage_complexity(encoder, 64)
    encoder.eval().requires_grad_(False).bfloat16()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    assert stage_complexity(encoder, 64) == expected
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert not any(layer._forward_hooks for layer in encoder.modules())


def test_squeezed_maps_and_trunk_layers():
    """Squeeze-and-excitation counts at its own size; timm's downsampling between stages is no residual branch."""
    first = stage_complexity(build_encoder(parse_encoder("timm/regnety_002")), 64).stages[0]
    assert first.memory_elements == 3 * 24 * 16 * 16 + 8 + 24  # three convolutions; reduction to 8 channels and back
    second = stage_complexity(build_encoder(parse_encoder("timm/convnext_atto")), 64).stages[1]
    assert second.memory_elements == 2 * (80 + 320 + 80) * 8 * 8  # two blocks: depthwise 7x7 and an MLP


def test_sizes_that_do_not_work():
    """The stage is named, and of a unit the block."""
    with pytest.raises(ValueError, match="image size is 0"):
        stage_complexity(ThreeConvolutions(), 0)
    with pytest.raises(ValueError, match="stage second cannot work on images of 1 px"):
        stage_complexity(ThreeConvolutions(), 1)
    with pytest.raises(ValueError, match="stage second, block 1, cannot work on images of 1 px"):
        unit_macs(ThreeConvolutions(), [LocalUnit(0, 2)], 1)


def test_tool_prints_json(run_tool):
    """Nothing but the result on stdout; totals are the sums over the stages. What does not fit is one line."""
    finished = run_tool("costs", "stages", "--encoder", "resnet18", "--image-size", 64, "--format", "json")
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert (report["encoder"], report["input_size"]) == ("resnet18", 64)
    stages = report["stages"]
    assert [stage["name"] for stage in stages] == ["res2", "res3", "res4", "res5"]
    for total in ("parameters", "gflops", "memory_elements", "activation_bytes"):
        assert report[total] == pytest.approx(sum(stage[total] for stage in stages))
    for share in ("flops_percent", "memory_percent", "activation_percent"):
        assert sum(stage[share] for stage in stages) == pytest.approx(100)
    assert stages[-1]["out_shape"] == [512, 2, 2]
    assert_one_line_error(run_tool("costs", "stages", "--encoder", "resnet51"), "unknown encoder 'resnet51'", "resnet50")
