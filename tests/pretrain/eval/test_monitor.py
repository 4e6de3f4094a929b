"""The monitor measures while a pretraining runs, and the pretraining does not notice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.engine.checkpoints import load_checkpoint
from pretrain.eval.data import load_labelled_data
from pretrain.eval.features import PooledFeatures, load_encoder
from pretrain.eval.knn import nearest_neighbours
from pretrain.results.training_log import read_training_log
from tests.conftest import ROOT, assert_one_line_error

pytestmark = pytest.mark.repository
# dropped paths are drawn from the global generator, between epochs too
OPTIONS = ["model.encoder._delete_=True", "model.encoder.type=TimmEncoder", "model.encoder.name=resnet10t",
           "model.encoder.drop_path_rate=0.2", "train_cfg.max_epochs=3", "train_dataloader.batch_size=4",
           "train_dataloader.dataset.views.size=32", "train_dataloader.num_workers=0",
           "train_dataloader.persistent_workers=False"]


@pytest.fixture
def labelled(tmp_path) -> Path:
    """Darker and brighter noise, in two splits."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 4)):
        for label, level in (("dark", 110), ("bright", 130)):
            folder = tmp_path / "labelled" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(level - 50, level + 50, (32, 32, 3)) + rng.integers(-50, 50)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "labelled"


def test_monitored_or_not_the_weights_are_the_same(tmp_path, image_folder, labelled, run_tool):
    """To the last bit; accuracies are those of an evaluation, of every stage, in log, record and curves."""
    def run(work_dir: Path, *more: str):
        finished = run_tool("pretrain", ROOT / "configs/pretrain/simclr_resnet18_demo.py", "--data-root", image_folder,
                            "--work-dir", work_dir, "--cfg-options", *OPTIONS, *more)
        assert finished.returncode == 0, finished.stderr
        return finished.stderr

    run(tmp_path / "plain")
    stderr = run(tmp_path / "watched", f"monitor.data_root={labelled}", "monitor.every=2", "monitor.k=5")
    expected, found = (load_checkpoint(tmp_path / name / "epoch_3.pth") for name in ("plain", "watched"))
    assert all(torch.equal(value, found["state_dict"][key]) for key, value in expected["state_dict"].items())
    assert torch.equal(expected["random_states"][0]["torch"], found["random_states"][0]["torch"])
    assert all(f"epoch {epoch}: knn_res2" in stderr for epoch in (2, 3)) and "epoch 1: knn" not in stderr
    log = read_training_log(tmp_path / "watched")
    assert set(log.units("knn_")) == {"res2", "res3", "res4", "res5"}
    epochs, values = log.series("knn_res5")
    assert epochs == [2, 3]
    encoder, _ = load_encoder(str(tmp_path / "watched/epoch_3.pth"), None, 0)
    data = load_labelled_data("folder", labelled, image_size=32)
    stages, _ = nearest_neighbours(PooledFeatures(encoder.eval(), ["res5"]), data, k=5, temperature=0.07, batch_size=8)
    assert values[-1] == pytest.approx(stages["res5"]["top1"] / 100)


def test_what_cannot_be_monitored_is_refused_before_the_run(tmp_path, image_folder, run_tool):
    for options, parts in ((["monitor.data_root=nowhere"], ["nowhere"]),
                           ([f"monitor.data_root={image_folder}", "monitor.evry=2"], ["monitor", "'every'"])):
        finished = run_tool("pretrain", ROOT / "configs/pretrain/simclr_resnet18_demo.py", "--data-root", image_folder,
                            "--work-dir", tmp_path / "w", "--cfg-options", *OPTIONS, *options)
        assert_one_line_error(finished, *parts)
        assert not (tmp_path / "w" / "run.json").exists()
