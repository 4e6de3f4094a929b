"""pretrain.costs.library_benchmark: what is timed is the same work, and only paired rounds count."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import models as tv_models

from pretrain.costs import library_benchmark
from pretrain.costs.library_benchmark import (
    OURS,
    PARTS,
    BenchmarkConfig,
    compare_libraries,
    draw_images,
    link_images,
    make_runs,
    normalised,
    paired_seconds,
)
from pretrain.learner import IMAGENET_MEAN, IMAGENET_STD
from tests.conftest import assert_one_line_error

SMALL = BenchmarkConfig(batch_size=4, image_size=32, rounds=1, epoch_batches=2, source_size=64)
installed = pytest.mark.skipif(not (find_spec("lightly") and find_spec("solo")), reason="needs lightly and solo-learn")


def head_parameters(hidden: int, norms: tuple[int, ...], biases: tuple[int, ...]) -> int:
    """Of a head from ``hidden`` over ``hidden`` to 128 with batch norms and linear biases of these widths."""
    return hidden * hidden + hidden * 128 + 2 * sum(norms) + sum(biases)


def test_the_step_is_simclr_on_torchvisions_resnet():
    """Parameters are torchvision's without the classifier and a head as wide as the features; one step changes them."""
    run = make_runs(SMALL, [])[OURS]
    resnet = tv_models.resnet18()
    trunk = sum(p.numel() for p in resnet.parameters()) - sum(p.numel() for p in resnet.fc.parameters())
    assert sum(p.numel() for p in run.learner.parameters()) == trunk + head_parameters(512, norms=(512,), biases=(128,))
    before = run.learner.encoder.conv1.weight.clone()
    views = torch.randint(0, 256, (4, 2, 3, 32, 32), dtype=torch.uint8)
    assert run.train_step(run.in_memory(views)).isfinite()
    assert not torch.equal(run.learner.encoder.conv1.weight, before)


def test_views_in_memory_are_the_learners_own():
    """What the others get normalised is what our step makes of the same uint8 views."""
    views = torch.randint(0, 256, (2, 2, 3, 8, 8), dtype=torch.uint8)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for index, view in enumerate(normalised(views)):
        torch.testing.assert_close(view.double(), (views[:, index].double() - mean) / std, atol=1e-5, rtol=0)


def test_rounds_alternate_and_warm_up_is_not_counted(monkeypatch):
    """Every other round backwards; the clock of a fake that advances by known steps gives known seconds."""
    order, clock = [], [0.0]
    monkeypatch.setattr(library_benchmark.time, "perf_counter", lambda: clock[0])

    def task(name: str, duration: float):
        def run() -> None:
            order.append(name)
            clock[0] += duration * (1 if len(order) > 2 * library_benchmark.WARM_UP_ROUNDS else 100)

        return run

    assert paired_seconds({"a": task("a", 1), "b": task("b", 3)}, rounds=2) == {"a": [1, 1], "b": [3, 3]}
    assert "".join(order) == "abba" * 2


def test_ratios_are_paired():
    """The median of ratios within a round: a machine that is ten times slower in one round changes nothing."""
    rates = library_benchmark._rates({OURS: [1, 10, 1], "other": [2, 20, 2]}, images=8)
    assert rates["other"] == {"images_per_second": 4, "ours_to_this": 2}
    assert rates[OURS] == {"images_per_second": 8, "ours_to_this": 1}


def test_drawn_and_linked_images_fill_an_epoch(tmp_path, image_folder):
    """JPEGs of the configured size, reproducible; a folder with too few images is gone through again."""
    drawn, again = (sorted(draw_images(tmp_path / name, SMALL).glob("*/*.jpg")) for name in ("first", "second"))
    assert len(drawn) == 8 and Image.open(drawn[0]).size == (64, 64)
    assert [file.read_bytes() for file in drawn] == [file.read_bytes() for file in again]
    many = BenchmarkConfig(batch_size=4, epoch_batches=3)
    linked = sorted(link_images(tmp_path / "linked", str(image_folder), many).glob("*/*.png"))
    assert len(linked) == 12 and len({file.resolve() for file in linked}) == 8
    assert all(file.resolve().is_relative_to(image_folder.resolve()) for file in linked)


@pytest.mark.slow
def test_ours_alone_needs_no_other_library(run_tool, image_folder):
    """The report of the tool: every part, for our two settings."""
    finished = run_tool("benchmark_step", "--against", "--batch-size", 4, "--image-size", 32, "--rounds", 1,
                        "--epoch-batches", 2, "--data-root", image_folder)
    report = json.loads(finished.stdout)
    assert report["config"]["batch_size"] == 4 and report["versions"]["torch"] == torch.__version__.split("+")[0]
    for part in PARTS:
        assert report[part][OURS]["ours_to_this"] == 1
        assert all(row["images_per_second"] > 0 for row in report[part].values())
    assert "ours_channels_last_bfloat16" in report["step"]


@pytest.mark.slow
@installed
def test_all_libraries_do_the_same_work():
    """The same encoder and, but for batch norm and biases, the same head; a loss that falls."""
    torch.manual_seed(0)
    runs = make_runs(SMALL, ["lightly", "solo-learn"])
    sizes = {name: sum(p.numel() for group in run.optimizer.param_groups for p in group["params"])
             for name, run in runs.items()}
    trunk = sizes[OURS] - head_parameters(512, norms=(512,), biases=(128,))
    assert sizes["lightly"] == sizes["lightly_cat"] == trunk + head_parameters(512, norms=(512, 128), biases=())
    classifier = 512 * library_benchmark.CLASSES + library_benchmark.CLASSES
    assert sizes["solo-learn"] == trunk + head_parameters(512, norms=(), biases=(512, 128)) + classifier
    views = torch.randint(0, 256, (4, 2, 3, 32, 32), dtype=torch.uint8)
    for name, run in runs.items():
        losses = [float(run.train_step(run.in_memory(views))) for _ in range(6)]
        assert losses[-1] < losses[0], name


@pytest.mark.slow
@installed
def test_all_libraries_are_measured(tmp_path):
    """Every part of the report, from files that all of them read."""
    report = compare_libraries(SMALL, ["lightly", "solo-learn"], draw_images(tmp_path / "images", SMALL))
    assert {"lightly", "lightly_cat", "solo-learn"} < set(report["step"]) == set(report["pipeline"])
    assert set(report["views"]) == {OURS, "lightly", "solo-learn"}


@pytest.mark.skipif(bool(find_spec("lightly")), reason="lightly is installed")
def test_a_missing_library_says_what_installs_it(run_tool):
    """Exit code 2 and the command, before anything is drawn or measured."""
    assert_one_line_error(run_tool("benchmark_step", "--against", "lightly"), "pip install -c constraints.txt lightly")


@pytest.mark.parametrize(("options", "message"), [
    (dict(encoder="resnet34"), "encoder is 'resnet34'"),
    (dict(batch_size=1), "batch_size is 1"),
    (dict(rounds=0), "rounds is 0"),
])
def test_values_out_of_range(options, message):
    """The value and what is needed."""
    with pytest.raises(ValueError, match=message):
        BenchmarkConfig(**options)


def test_unknown_library():
    """Named, with those that are known."""
    with pytest.raises(ValueError, match="unknown library 'vissl'; known are lightly, solo-learn"):
        make_runs(SMALL, ["vissl"])


def test_missing_folder(tmp_path):
    """Told by the function that lists images."""
    with pytest.raises(ValueError, match="does not exist"):
        link_images(tmp_path, str(Path(tmp_path, "nowhere")), SMALL)
