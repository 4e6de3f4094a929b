"""Warnings of AP tables: everything that makes runs less comparable than they look is told, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loco_det.ap_rows import run_grid
from loco_det.comparability import MAX_LINES, grid_warnings
from loco_det.evaluation.results import PretrainedBackbone, RunResults
from loco_det.published import VAL_IMAGES
from tests.conftest import ROOT
from tests.loco_det.detection_runs import detector_settings, make_run, write_run

METHODS = ("simclr", "gim")


def warnings_of(runs: Sequence[RunResults], baseline: str = "simclr") -> list[str]:
    """The warnings of a table of these runs."""
    return grid_warnings(run_grid(runs, baseline))


def test_missing_baseline() -> None:
    """Without the baseline there are no differences but a warning, for each data set that has a row to compare."""
    runs = [
        make_run("loco", [26.0]),
        make_run("simclr", [11.0], dataset="coco1k"),
        make_run("loco", [12.0], dataset="coco1k"),
        make_run("random", [1.0], dataset="coco"),
    ]
    assert warnings_of(runs) == ["no run of the baseline simclr on coco10k: no differences there"]
    assert len(warnings_of(runs, baseline="none")) == 2


def test_other_training_images_are_warned_of() -> None:
    """Splits of the same number but with other images do not compare methods."""
    runs = [make_run("simclr", [1.0, 1.0]), make_run("gim", [1.0, 1.0], images="other")]
    assert warnings_of(runs) == ["gim on coco10k was trained on other images than simclr in splits [0, 1]"]


def test_value_that_only_one_has() -> None:
    """A split without a value is left out of the mean, so that the means are over other splits."""
    runs = [make_run("simclr", [1.0, 2.0]), make_run("gim", [1.0, None], [3.0, 4.0])]
    assert warnings_of(runs) == [
        "gim on coco10k is incomplete: no box AP in splits [1]",
        "gim on coco10k is averaged over splits [0], but simclr over [0, 1]: no difference told between them"
    ]


def test_task_without_any_value() -> None:
    """A run that is finished but lacks one task's AP is not complete, also where its baseline lacks the same."""
    runs = [make_run("simclr", [1.0, 2.0], [None, None]), make_run("gim", [1.0, 2.0], [None, None])]
    assert warnings_of(runs) == [f"{name} on coco10k is incomplete: no mask AP in splits [0, 1]" for name in METHODS]
    runs = [make_run("simclr", [1.0], dataset="cityscapes", official=[2.0]), make_run("gim", [1.0], dataset="cityscapes")]
    assert warnings_of(runs) == ["gim on cityscapes is incomplete: no official AP in splits [0]"]


@pytest.mark.parametrize("dataset, whole", [("coco", 5_000), ("coco10k", 5_000), ("coco1k", 5_000), ("cityscapes", 500)])
def test_part_of_the_validation_set(dataset: str, whole: int) -> None:
    """Runs that agree on a part of the validation images are comparable, but not what the data set's name says."""
    runs = [make_run(name, [1.0], dataset=dataset, num_val_images=whole - 1) for name in METHODS]
    assert warnings_of(runs) == [
        f"not AP on the whole validation set of {dataset}, which has {whole:,} images: {whole - 1:,} (simclr, gim)"
    ]
    assert warnings_of([make_run(name, [1.0], dataset=dataset, num_val_images=whole) for name in METHODS]) == []


def test_other_validation_annotations() -> None:
    """AP of other annotations is another number: between runs, and between the splits of one; not of other data sets."""
    runs = [
        make_run("simclr", [1.0, 1.0], dataset="mine", val_sha256="a" * 64, num_val_images=30),
        make_run("gim", [1.0, 1.0], dataset="mine", val_sha256="b" * 64, num_val_images=20),
        make_run("loco", [1.0, 1.0], dataset="mine", val_sha256="a" * 64, num_val_images=30),
        make_run("random", [1.0], dataset="theirs", val_sha256="c" * 64),
    ]
    a, b = f"30 images, sha256 {'a' * 12}", f"20 images, sha256 {'b' * 12}"
    assert warnings_of(runs) == [f"runs on mine were evaluated on different annotations: {a} (simclr, loco), {b} (gim)"]
    mixed = runs[1]
    mixed.splits[0] = replace(mixed.splits[0], val_sha256="a" * 64, num_val_images=30)
    assert warnings_of([mixed], baseline="gim") == [
        f"gim on mine was evaluated on different annotations: {a} (split 0), {b} (split 1)"
    ]
    assert warnings_of([mixed, runs[2]], baseline="none")[-1] == (
        f"runs on mine were evaluated on different annotations: {a} and {b} (gim), {a} (loco)"
    )


def test_row_of_several_backbones() -> None:
    """One row of a table is one backbone; those of other epochs or encoders are other rows."""
    runs = [make_run("loco", [1.0], dataset=name, epochs=100) for name in ("coco", "cityscapes", "coco1k")]
    runs += [make_run("loco", [1.0], dataset="coco", epochs=800), make_run("random", [1.0], dataset="coco")]
    assert warnings_of(runs, baseline="loco") == []
    runs[1].pretrained = PretrainedBackbone("other.pth", "cd" * 32, "loco", 100)
    runs[3].pretrained = PretrainedBackbone("longer.pth", "ef" * 32, "loco", 800)
    assert warnings_of(runs, baseline="loco") == [
        f"the row loco (100 epochs) is of different backbones: sha256 {'ab' * 6} (coco, coco1k), "
        f"sha256 {'cd' * 6} (cityscapes)"
    ]


def test_equal_configs_are_comparable(tmp_path: Path) -> None:
    """Backbone, data folder and workers may differ; runs of other data sets are not compared."""
    backbone = dict(encoder="presnet50", out_stages=["res2"], out_strides=[4], checkpoint="x.pth", frozen_stages=6)
    other = detector_settings() | dict(
        model=dict(backbone=backbone, neck=dict(in_channels=[1, 2])),
        data=dict(root="/else", supercategories=False),
        pretrained=dict(method="loco", sha256="ab"),
        presnet50=dict(encoder="presnet50"),
        train_dataloader=dict(batch_size=16, num_workers=9),
    )
    elsewhere = detector_settings() | dict(train_cfg=dict(max_epochs=12), new_layer_norm="GN")
    runs = [
        write_run(tmp_path / "a", make_run("simclr", [1.0])),
        write_run(tmp_path / "b", make_run("loco", [1.0], encoder="presnet50"), other),
        write_run(tmp_path / "e", make_run("simclr", [1.0], encoder="presnet50"), other),
        write_run(tmp_path / "c", make_run("loco", [1.0], dataset="coco"), elsewhere),
        write_run(tmp_path / "d", make_run("simclr", [1.0], dataset="coco"), elsewhere),
    ]
    assert warnings_of(runs) == []


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(train_cfg=dict(type="ResumableIterTrainLoop", max_iters=6000)), "train_cfg.max_iters: 60000 ({}), 6000 (gim)"),
        (dict(optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01))),
         "optim_wrapper.optimizer.lr: 0.02 ({}), 0.01 (gim)"),
        (dict(param_scheduler=[dict(type="LinearLR", end=500), dict(type="MultiStepLR", milestones=[4_000])]),
         "param_scheduler.1.milestones: [40000, 54000] ({}), [4000] (gim)"),
        (dict(new_layer_norm="GN"), 'new_layer_norm: "SyncBN" ({}), "GN" (gim)'),
        (dict(new_layer_norm=None), 'new_layer_norm: "SyncBN" ({}), not set (gim)'),
        (dict(train_dataloader=dict(batch_size=8)), "train_dataloader.batch_size: 16 ({}), 8 (gim)"),
        (dict(data=dict(supercategories=True)), "data.supercategories: false ({}), true (gim)"),
        (dict(data=dict(supercategories=False, train_ann="x.json")), 'data.train_ann: not set ({}), "x.json" (gim)'),
        (dict(autocast="float16"), 'autocast: not set ({}), "float16" (gim)'),
        (dict(model=dict(rpn_head=dict(anchor_generator=dict(scales=[4])))),
         "model.rpn_head.anchor_generator.scales: not set ({}), [4] (gim)"),
        (dict(model=dict(backbone=dict(norm_eval=False))), "model.backbone.norm_eval: not set ({}), false (gim)"),
        (dict(val_dataloader=dict(dataset=dict(pipeline=[dict(scale=[333, 200])]))),
         "val_dataloader.dataset.pipeline.0.scale: not set ({}), [333, 200] (gim)"),
        (dict(protocol=dict(dataset="coco10k", num_splits=3)), "protocol.num_splits: 5 ({}), 3 (gim)"),
    ],
)  # fmt: skip
def test_configs_that_differ_are_warned_of(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Any setting that is not the backbone's, told with its values and whose they are, in one line."""
    runs = [
        write_run(tmp_path / "a", make_run("random", [1.0])),
        write_run(tmp_path / "b", make_run("simclr", [1.0])),
        write_run(tmp_path / "c", make_run("gim", [1.0]), detector_settings() | changes),
    ]
    assert warnings_of(runs) == ["runs on coco10k differ in " + message.format("random, simclr")]


def test_every_differing_setting_has_a_line(tmp_path: Path) -> None:
    """Two settings, two lines; rows that differ in their epochs are told apart."""
    changed = detector_settings() | dict(new_layer_norm="none", train_dataloader=dict(batch_size=4))
    runs = [
        write_run(tmp_path / "a", make_run("simclr", [1.0], epochs=100)),
        write_run(tmp_path / "b", make_run("simclr", [1.0], epochs=800), changed),
    ]
    assert warnings_of(runs) == [
        'runs on coco10k differ in new_layer_norm: "SyncBN" (simclr (100 epochs)), "none" (simclr (800 epochs))',
        "runs on coco10k differ in train_dataloader.batch_size: 16 (simclr (100 epochs)), 4 (simclr (800 epochs))",
    ]


def test_what_is_frozen_is_compared_within_an_encoder(tmp_path: Path) -> None:
    """Random weights may be freed, and other encoders count other stages; but not two pretrainings of one encoder."""

    def run(method: str, frozen: int, encoder: str = "resnet50") -> RunResults:
        settings = detector_settings() | dict(model=dict(backbone=dict(frozen_stages=frozen)))
        return write_run(tmp_path / f"{method}_{encoder}_{frozen}", make_run(method, [1.0], encoder=encoder), settings)

    fair = [run("random", 0), run("simclr", 1), run("loco", 1), run("simclr", 2, "presnet50")]
    assert warnings_of(fair) == []
    assert warnings_of([*fair, run("gim", 4)]) == [
        "runs on coco10k differ in model.backbone.frozen_stages: 1 (simclr (resnet50), loco (resnet50)), 4 (gim (resnet50))"
    ]


def test_many_differing_settings_are_counted(tmp_path: Path) -> None:
    """Ten lines, and how many there are besides."""
    changed = detector_settings() | dict(model=dict(test_cfg={f"option{i:02}": i for i in range(MAX_LINES + 3)}))
    runs = [write_run(tmp_path / "a", make_run("simclr", [1.0])), write_run(tmp_path / "b", make_run("gim", [1.0]), changed)]
    *lines, last = warnings_of(runs)
    assert lines == [f"runs on coco10k differ in model.test_cfg.option{i:02}: not set (simclr), {i} (gim)"
                     for i in range(MAX_LINES)]
    assert last == "runs on coco10k differ in 3 more settings; compare their run.json"


@pytest.mark.slow
def test_shipped_configs_are_comparable(tmp_path: Path) -> None:
    """No two configs of one data set differ in anything but the backbone, recorded as a run of each would be."""
    from mmengine.config import Config

    from loco_det.backbone_file import encoder_name
    from loco_det.experiment import DataDescription, _identity

    data, runs = DataDescription(("thing",), 1, "train", "val"), []
    for file in sorted((ROOT / "configs").glob("mask_rcnn_*.py")):
        config = Config.fromfile(file, import_custom_modules=False)
        kwargs = dict(encoder=encoder_name(config), epochs=config.pretrained.get("epochs"))
        run = make_run(config.pretrained.method, [1.0], dataset=config.protocol.dataset, **kwargs)
        runs.append(write_run(tmp_path / file.stem, run, _identity(config, run.pretrained, data)))
    assert {run.dataset for run in runs} >= set(VAL_IMAGES)
    assert warnings_of(runs) == []


@pytest.mark.parametrize("record", [None, "{", "[]", "{}", '{"config": []}'])
def test_config_that_is_not_known(record: str | None, tmp_path: Path) -> None:
    """Results without a readable record beside them are shown, but it is told that nobody checked them."""
    runs = [write_run(tmp_path / name, make_run(name, [1.0])) for name in ("simclr", "gim")]
    file = tmp_path / "gim" / "run.json"
    file.unlink()
    if record is not None:
        file.write_text(record)
    assert warnings_of(runs) == [
        f"no readable run.json in {tmp_path / 'gim'}: not checked whether schedule, batch and all else are those of the "
        "other runs on coco10k"
    ]
    assert warnings_of(runs[1:], baseline="gim") == [], "a single run is compared with nothing"
