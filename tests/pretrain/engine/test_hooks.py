"""Images that cannot be decoded, and errors of one process, stop all processes of a run with one message."""

from __future__ import annotations

import faulthandler
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from pretrain.distributed import comm
from pretrain.engine.checkpoints import partial_path
from pretrain.errors import RunFailedError
from pretrain.run import pretrain, use_data_root
from tests.conftest import ROOT
from tests.pretrain.processes import run_in_processes


@HOOKS.register_module()
class SpoilHook(Hook):
    """Lets the first process's checkpoint fail: its weights become infinite, or where it is written stands a folder."""

    def __init__(self, cause: str) -> None:
        self.cause = cause

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if comm.rank() > 0 or not self.end_of_epoch(runner.train_dataloader, batch_idx):
            return
        if self.cause == "weights":
            next(runner.model.parameters()).data.fill_(float("inf"))
        else:
            partial_path(Path(runner.work_dir) / "epoch_1.pth").mkdir()


def errors_of_runs(images: Path, work_dirs: Path, hooks_of_runs: list[list[dict]]) -> list[tuple[str, bool, str]]:
    """This process's error in one epoch with each list of hooks: its type, whether the tools tell it in a line, its text."""
    faulthandler.dump_traceback_later(120, exit=True)  # where this process waits for the other without end
    return [error_of_run(images, work_dirs / str(index), hooks) for index, hooks in enumerate(hooks_of_runs)]


def error_of_run(images: Path, work_dir: Path, hooks: list[dict]) -> tuple[str, bool, str]:
    config = Config.fromfile(str(ROOT / "configs/pretrain/simclr_resnet18_demo.py"), import_custom_modules=False)
    config.merge_from_dict({
        "train_dataloader.batch_size": 4, "train_dataloader.num_workers": 0, "train_dataloader.persistent_workers": False,
        "train_dataloader.dataset.views.size": 16, "model.encoder.width": 8, "work_dir": str(work_dir),
        "experiment_name": str(work_dir),
    })
    config.custom_hooks = hooks
    use_data_root(config, str(images))
    try:
        pretrain(config, launcher="pytorch")
    except Exception as error:
        return type(error).__name__, isinstance(error, RunFailedError), str(error)
    raise AssertionError("the run has not failed")


@pytest.mark.slow
def test_what_each_process_could_not_decode_is_put_together(image_folder, tmp_path):
    """Each of two processes meets one broken image of eight, and a share of 1.5 of 8 is tolerated: both stop, both count 2.

    The log of the first process names the second's image, too.
    """
    files = sorted(image_folder.rglob("*.png"))
    order = np.random.default_rng([0, 0]).permutation(len(files))  # the first epoch's; even places are the first process's
    broken = [files[order[0]], files[order[1]]]
    for file in broken:
        file.write_bytes(b"")
    hooks = [dict(type="CorruptImagesHook", max_share=1.5 / 8)]
    (first,), (second,) = run_in_processes(errors_of_runs, 2, tmp_path, image_folder, tmp_path / "runs", [hooks])
    assert first == second
    assert first[:2] == ("RunFailedError", True)
    assert first[2].startswith("2 of 8 images are corrupt, more than the tolerated share of 0.1875")
    (log,) = (tmp_path / "runs" / "0").glob("*/*.log")
    assert all(f"{file} cannot be decoded" in log.read_text() for file in broken)


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_saved_stops_all_processes(image_folder, tmp_path):
    """Only the first one saves and meets the error: weights that are refused, a file that cannot be opened."""
    hooks = [[dict(type="SpoilHook", cause=cause)] for cause in ("weights", "file")]
    first, second = run_in_processes(errors_of_runs, 2, tmp_path, image_folder, tmp_path / "runs", hooks)
    assert first[0][:2] == ("NonFiniteLossError", True) and "not finite after iteration 2" in first[0][2]
    assert first[1][0] != "RunFailedError" and ".epoch_1.pth.partial" in first[1][2]
    assert second == [("RunFailedError", True, text) for _, _, text in first]
