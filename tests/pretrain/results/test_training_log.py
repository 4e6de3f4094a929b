"""Reading a training log back: several starts, lines cut off, and how far a run is."""

from __future__ import annotations

import json

import pytest

from pretrain.results.training_log import find_training_logs, read_training_log
from tests.pretrain.synthetic_logs import draw_records, draw_run, logged_iterations, write_log


def test_scalars_come_back_as_they_were_logged(tmp_path):
    """Records, units from the bottom up and series are what the files say."""
    work_dir = draw_run(tmp_path / "run", "gim", seed=3)
    log = read_training_log(work_dir)
    written = draw_records(("res2", "res3", "res4", "res5"), [5, 10, 17, 22], 12, seed=3)
    assert log.records == written
    assert log.units() == log.units("accuracy_") == ["res2", "res3", "res4", "res5"]
    assert log.series("loss_res4")[1] == [record["loss_res4"] for record in written]
    assert log.epochs_done == 2 and log.metrics("res5") == ["loss", "accuracy"]


def test_means_of_epochs(tmp_path):
    """Of the records that have the scalar."""
    losses = [(1, 4.0), (1, 2.0), (3, 1.5)]
    records = [dict(iter=step, epoch=epoch, loss=loss) for step, (epoch, loss) in enumerate(losses, 1)]
    write_log(tmp_path, records, "20260101_000000")
    log = read_training_log(tmp_path)
    assert log.epoch_means("loss") == {1: 3.0, 3: 1.5}
    assert log.epoch_means("loss_res9") == {}


def test_what_was_run_again_after_a_resume_replaces_what_was_undone(tmp_path):
    """An interrupted run's lines beyond its last checkpoint are dropped, also those that were not run again yet."""
    write_log(tmp_path, draw_records(["res5"], [10, 20, 30, 40, 50], 100), "20260101_000000")
    write_log(tmp_path, draw_records(["res5"], [30, 40], 100, seed=1), "20260102_000000")  # from a checkpoint at 20 to 29
    log = read_training_log(tmp_path)
    assert [record["iter"] for record in log.records] == [10, 20, 30, 40]
    assert [record["images_per_second"] for record in log.records] == [110, 120, 131, 141]


def test_a_start_that_logged_nothing_undoes_nothing(tmp_path):
    """A run that was stopped before its first line leaves an empty file."""
    write_log(tmp_path, draw_records(["res5"], [10, 20], 100), "20260101_000000")
    write_log(tmp_path, [], "20260102_000000")
    assert [record["iter"] for record in read_training_log(tmp_path).records] == [10, 20]


@pytest.mark.parametrize("end", [
    '{"loss": 4.5, "it', "17\n", '{"accuracy/top1": 3.0, "step": 9}\n', '{"loss": 4.5, "iter": null, "epoch": 1}\n',
    '{"loss": 4.5, "iter": 30, "epoch": "1"}\n', '{"loss": 4.5, "iter": 30.5, "epoch": 1}\n',
    '{"loss": 4.5, "iter": 30, "epoch": 0}\n', '{"loss": null, "iter": 30, "epoch": 1}\n',
])
def test_lines_that_are_no_records_are_skipped(tmp_path, end):
    """A line that was cut off by a kill, and whatever else a visualizer may write."""
    write_log(tmp_path, draw_records(["res5"], [10, 20], 100), end=end)
    assert [record["iter"] for record in read_training_log(tmp_path).records] == [10, 20]


@pytest.mark.parametrize(("per_epoch", "interval"), [(12, 5), (31, 20), (195, 20), (10, 10), (7, 1)])
@pytest.mark.parametrize("epochs", [2, 3, 9])
def test_progress_counts_epochs(tmp_path, per_epoch, interval, epochs):
    """Two epochs' lines are enough to tell how many iterations an epoch has."""
    iterations = logged_iterations(epochs, per_epoch, interval)
    write_log(tmp_path, draw_records(["res5"], iterations, per_epoch))
    assert read_training_log(tmp_path).progress() == pytest.approx([step / per_epoch for step in iterations])


def test_progress_over_an_epoch_without_lines(tmp_path):
    """Also where a kill or a coarse interval left out whole epochs."""
    iterations = [step for step in logged_iterations(6, 31, 20) if not 31 < step <= 93]
    write_log(tmp_path, draw_records(["res5"], iterations, 31))
    assert read_training_log(tmp_path).progress() == pytest.approx([step / 31 for step in iterations])


def test_progress_in_the_first_epoch_is_at_most_1(tmp_path):
    """While it runs nobody knows how long it is."""
    write_log(tmp_path, draw_records(["res5"], [10, 20, 30], 100))
    assert read_training_log(tmp_path).progress() == pytest.approx([1 / 3, 2 / 3, 1])


def test_progress_never_passes_the_epoch_that_runs(tmp_path):
    """Lines at unequal places of the epochs, as after a resume, give an estimate between the bounds that they set."""
    write_log(tmp_path, draw_records(["res5"], [20, 31, 45, 90], 31))
    log = read_training_log(tmp_path)
    for record, done in zip(log.records, log.progress(), strict=True):
        assert 0 < done <= record["epoch"]


def test_scalars_that_are_no_numbers_are_left_out(tmp_path):
    """The rest of their line stays."""
    write_log(tmp_path, [dict(iter=1, epoch=1, loss=2.0, loss_res5=None), dict(iter=2, epoch=1, loss=1.0, loss_res5=1.0)])
    log = read_training_log(tmp_path)
    assert log.series("loss")[1] == [2.0, 1.0] and log.series("loss_res5")[1] == [1.0]


def test_work_directories_are_found_below_folders(tmp_path):
    """Recorded pretrainings that logged something, each once; logs of detectors and without a record only where given."""
    runs = [draw_run(tmp_path / name) for name in ("a/one", "a/two", "b")]
    detection = json.dumps(json.loads((runs[0] / "run.json").read_text()) | dict(kind="detection"))
    for name, content in (("det/split_0", detection), ("damaged", "{")):
        other = write_log(tmp_path / "a" / name, draw_records(["res5"], [10], 100))
        (other / "run.json").write_text(content)
    bare = write_log(tmp_path / "a/bare", draw_records(["res5"], [10], 100))
    empty = draw_run(tmp_path / "a/empty")
    next(empty.glob("*/vis_data/scalars.json")).write_text("")
    assert find_training_logs([tmp_path]) == runs
    assert find_training_logs([runs[1], tmp_path / "a", bare]) == [runs[1], runs[0], bare]
    with pytest.raises(ValueError, match="empty has no training log"):
        find_training_logs([empty])
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        find_training_logs([tmp_path / "none"])


def test_what_is_lacking_is_named(tmp_path):
    """No directory, no log: each with its path."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_training_log(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=str(tmp_path)):
        read_training_log(tmp_path)
