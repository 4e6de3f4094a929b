"""Checkpoint files: their order, damage of every kind, atomic writes, and which ones go."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.runner import find_latest_checkpoint

from pretrain.engine.checkpoints import (
    RANDOM_STATES_KEY,
    checkpoint_files,
    checkpoint_name,
    complete,
    newest_intact,
    partial_path,
    point_to_last,
    remove_partial,
    remove_superseded,
)


def write(folder: Path, *names: str) -> list[Path]:
    """Small checkpoints with all that a resume needs."""
    content = {"state_dict": {"w": torch.arange(5000.0)}, "optimizer": {}, "meta": {}, RANDOM_STATES_KEY: []}
    for name in names:
        torch.save(content, folder / name)
    return [folder / name for name in names]


def names_in(folder: Path) -> list[str]:
    return [file.name for file in checkpoint_files(folder)]


def test_the_newest_comes_first_by_epoch_and_iteration(tmp_path):
    """Numbers are compared as numbers; a checkpoint within an epoch is newer than the one it began with; others are none."""
    expected = ["epoch_10.pth", "epoch_9_iter_100.pth", "epoch_9_iter_99.pth", "epoch_9.pth", "epoch_2.pth"]
    others = ["epoch_x.pth", "best.pth", ".epoch_11.pth.partial", "epoch_12.pth.partial", "last_checkpoint"]
    for name in sorted([*expected, *others]):
        (tmp_path / name).touch()
    assert names_in(tmp_path) == expected
    assert (checkpoint_name(9), checkpoint_name(9, 99)) == ("epoch_9.pth", "epoch_9_iter_99.pth")


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def flip_a_bit(file: Path) -> None:
    """Of a weight: torch itself loads such a file."""
    content = bytearray(file.read_bytes())
    content[content.index(torch.arange(5000.0).numpy().tobytes()) + 8000] ^= 1
    file.write_bytes(content)
    assert "state_dict" in torch.load(file)


def need_code(file: Path) -> None:
    torch.save({**torch.load(file), "optimizer": Path("object")}, file)


def drop_the_optimizer(file: Path) -> None:
    content = torch.load(file)
    del content["optimizer"]
    torch.save(content, file)


def pickle_plainly(file: Path) -> None:
    file.write_bytes(pickle.dumps({"state_dict": {}}))


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, need_code, drop_the_optimizer, pickle_plainly])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, damage):
    """The two newest are damaged: both are named, and the third is found; without it, none is."""
    newest, second, third = write(tmp_path, "epoch_3.pth", "epoch_2_iter_25.pth", "epoch_2.pth")
    assert newest_intact(tmp_path) == (newest, [])
    damage(newest)
    damage(second)
    found, messages = newest_intact(tmp_path)
    assert found == third
    assert [str(file) in message for file, message in zip((newest, second), messages, strict=True)] == [True, True]
    third.unlink()
    assert newest_intact(tmp_path) == (None, messages)
    assert newest_intact(tmp_path / "missing") == (None, [])


def test_a_file_gets_its_name_when_it_is_complete(tmp_path):
    """Until then the old content stands; what was never completed can be cleared away."""
    path = tmp_path / "epoch_1.pth"
    path.write_text("old")
    partial_path(path).write_text("new")
    assert path.read_text() == "old"
    assert partial_path(path).parent == path.parent
    assert checkpoint_files(tmp_path) == [path]
    complete(path)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["epoch_1.pth"]
    partial_path(tmp_path / "epoch_2.pth").touch()
    (tmp_path / ".run.json.partial").touch()  # another module's
    assert remove_partial(tmp_path) == [".epoch_2.pth.partial"]
    assert sorted(os.listdir(tmp_path)) == [".run.json.partial", "epoch_1.pth"]


def test_mmengine_finds_the_last_checkpoint(tmp_path):
    """The pointer file is the one that mmengine's tools read."""
    point_to_last(tmp_path / "epoch_1.pth")
    point_to_last(tmp_path / "epoch_2.pth")
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / "epoch_2.pth")
    assert os.listdir(tmp_path) == ["last_checkpoint"]


@pytest.mark.parametrize(
    ("newest", "max_keep", "stay"),
    [
        ("epoch_3.pth", 2, ["epoch_3.pth", "epoch_2.pth"]),
        ("epoch_3.pth", 1, ["epoch_3.pth"]),
        ("epoch_3.pth", -1, ["epoch_3.pth", "epoch_2.pth", "epoch_1.pth"]),
        ("epoch_3_iter_35.pth", 2, ["epoch_3_iter_35.pth", "epoch_3.pth", "epoch_2.pth"]),
        # a run resumed from epoch 2 because epoch_3.pth is damaged: that will be overwritten, and takes nobody's place
        ("epoch_2_iter_25.pth", 2, ["epoch_3.pth", "epoch_2_iter_25.pth", "epoch_2.pth", "epoch_1.pth"]),
    ],
)
def test_what_a_new_checkpoint_makes_superfluous(tmp_path, newest, max_keep, stay):
    """All others within an epoch go, older and newer ones; of full epochs the newest few stay."""
    for name in {"epoch_1.pth", "epoch_2.pth", "epoch_2_iter_23.pth", "epoch_3.pth", "epoch_3_iter_31.pth", newest}:
        (tmp_path / name).touch()
    remove_superseded(tmp_path / newest, max_keep)
    assert names_in(tmp_path) == stay


@pytest.mark.parametrize("previous", ["epoch_1.pth", "epoch_2_iter_23.pth"])
def test_the_checkpoint_before_stays(tmp_path, previous):
    """Of either kind and whatever else is there: the newest may not be good, though it is complete."""
    names = ["epoch_3.pth", "epoch_2_iter_25.pth", "epoch_2_iter_23.pth", "epoch_1.pth"]
    for name in names:
        (tmp_path / name).touch()
    remove_superseded(tmp_path / "epoch_3.pth", 1, tmp_path / previous)
    assert names_in(tmp_path) == ["epoch_3.pth", previous]


def test_torch_writes_the_checksums_that_are_compared(tmp_path):
    """Otherwise a changed bit would go unnoticed."""
    (file,) = write(tmp_path, "epoch_1.pth")
    with zipfile.ZipFile(file) as archive:
        assert all(info.CRC for info in archive.infolist() if info.file_size)
