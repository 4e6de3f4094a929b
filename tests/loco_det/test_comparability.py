"""Warnings of AP tables: everything that makes runs less comparable than they look is told, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from loco_det.ap_rows import run_grid
from loco_det.comparability import COMPARED_KEYS, grid_warnings
from loco_det.evaluation.results import RunResults
from tests.loco_det.detection_runs import detector_settings, make_run, write_run


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
        "gim on coco10k is averaged over splits [0], but simclr over [0, 1]: no difference told between them"
    ]


def test_equal_configs_are_comparable(tmp_path: Path) -> None:
    """Backbone, data folder and workers may differ; runs of other data sets are not compared."""
    other = detector_settings() | dict(
        model=dict(backbone=dict(encoder="presnet50")),
        data=dict(root="/else", supercategories=False),
        train_dataloader=dict(batch_size=16, num_workers=9),
    )
    elsewhere = detector_settings() | dict(train_cfg=dict(max_epochs=12), new_layer_norm="GN")
    runs = [
        write_run(tmp_path / "a", make_run("simclr", [1.0])),
        write_run(tmp_path / "b", make_run("loco", [1.0]), other),
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
        (dict(protocol=dict(dataset="coco10k", num_splits=3)), "protocol.num_splits: 5 ({}), 3 (gim)"),
    ],
)  # fmt: skip
def test_configs_that_differ_are_warned_of(changes: dict, message: str, tmp_path: Path) -> None:
    """Every compared setting, told with its values and whose they are, in one line."""
    runs = [
        write_run(tmp_path / "a", make_run("random", [1.0])),
        write_run(tmp_path / "b", make_run("simclr", [1.0])),
        write_run(tmp_path / "c", make_run("gim", [1.0]), detector_settings() | changes),
    ]
    assert warnings_of(runs) == ["runs on coco10k differ in " + message.format("random, simclr")]
    assert next(iter(changes)) in {key.split(".")[0] for key in COMPARED_KEYS}


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


@pytest.mark.parametrize("record", [None, "{", "[]", '{"config": []}', '{"config": {"train_dataloader": 3}}'])
def test_config_that_is_not_known(record: str | None, tmp_path: Path) -> None:
    """Results without a readable record beside them are shown, but it is told that nobody checked them."""
    runs = [write_run(tmp_path / name, make_run(name, [1.0])) for name in ("simclr", "gim")]
    file = tmp_path / "gim" / "run.json"
    file.unlink()
    if record is not None:
        file.write_text(record)
    assert warnings_of(runs) == [
        f"no readable run.json in {tmp_path / 'gim'}: not checked whether schedule, batch and normalisation are those of "
        "the other runs on coco10k"
    ]
    assert warnings_of(runs[1:], baseline="gim") == [], "a single run is compared with nothing"
