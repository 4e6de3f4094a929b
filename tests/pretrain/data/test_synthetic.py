"""The synthetic set as files: whole or not at all, and COCO reads back what was drawn."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pretrain.data import synthetic
from pretrain.data.synthetic import ensure_synthetic_dataset
from pretrain.data.synthetic_scenes import CATEGORIES, SPLITS, Scene, SyntheticConfig, render_scene

SMALL = SyntheticConfig(num_train=40, num_val=6, num_unlabeled=5)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_synthetic_dataset(tmp_path_factory.mktemp("sets") / "shapes", SMALL)


def test_two_sets_are_the_same_files(dataset: Path, tmp_path: Path) -> None:
    """Writing the same configuration twice gives the same bytes in the same files."""
    again = ensure_synthetic_dataset(tmp_path / "again", SMALL)
    names = sorted(path.relative_to(dataset) for path in dataset.rglob("*") if path.is_file())
    assert names == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for name in names:
        assert (dataset / name).read_bytes() == (again / name).read_bytes(), name


def test_layout_and_ids(dataset: Path) -> None:
    """COCO's folders and keys; ids are unique across splits, category ids have gaps."""
    assert {path.name for path in dataset.iterdir()} == {"annotations", "synthetic.json", *SPLITS}
    assert sorted(p.name for p in (dataset / "annotations").iterdir()) == [
        "instances_train2017.json",
        "instances_val2017.json",
    ]
    seen: set[int] = set()
    for split, count in (("train2017", 40), ("val2017", 6)):
        content = json.loads((dataset / "annotations" / f"instances_{split}.json").read_text())
        assert {"info", "licenses", "images", "annotations", "categories"} == set(content)
        assert content["categories"] == list(CATEGORIES)
        ids = {image["id"] for image in content["images"]}
        assert len(ids) == count and not ids & seen
        seen |= ids
        files = {image["file_name"] for image in content["images"]}
        assert files == {path.name for path in (dataset / split).iterdir()}
        annotation_ids = [annotation["id"] for annotation in content["annotations"]]
        assert len(set(annotation_ids)) == len(annotation_ids)
    assert len(list((dataset / "unlabeled2017").iterdir())) == 5
    category_ids = [category["id"] for category in CATEGORIES]
    assert category_ids != list(range(1, 5)) and sorted(set(category_ids)) == category_ids


def test_coco_reads_back_exactly_what_was_drawn(dataset: Path) -> None:
    """pycocotools decodes every mask to the visible mask; area, box, flag and pixels fit it."""
    kinds = set()
    for split, first_id in list(SPLITS.items())[:2]:
        coco = COCO(str(dataset / "annotations" / f"instances_{split}.json"))
        for image_id, entry in coco.imgs.items():
            scene = render_scene(SMALL, split, image_id - first_id)
            pixels = np.asarray(Image.open(dataset / split / entry["file_name"]))
            assert np.array_equal(pixels, scene.image)
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
            assert len(annotations) == len(scene.instances)
            for annotation, instance in zip(annotations, scene.instances, strict=True):
                assert np.array_equal(coco.annToMask(annotation).astype(bool), instance.mask)
                assert annotation["category_id"] == instance.category_id
                assert annotation["iscrowd"] == int(instance.iscrowd)
                assert annotation["area"] == instance.mask.sum()
                x, y, width, height = (int(value) for value in annotation["bbox"])
                boxed = instance.mask[y : y + height, x : x + width]
                assert boxed.sum() == instance.mask.sum()
                assert boxed[0].any() and boxed[-1].any() and boxed[:, 0].any() and boxed[:, -1].any()
                segmentation = annotation["segmentation"]
                kinds.add("polygon" if isinstance(segmentation, list) else type(segmentation["counts"]).__name__)
    assert kinds == {"polygon", "str", "list"}  # RLE compressed and not


def test_existing_set_is_left_alone(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call draws nothing and returns the folder."""
    monkeypatch.setattr(synthetic, "render_scene", lambda *_: pytest.fail("drew again"))
    assert ensure_synthetic_dataset(dataset, SMALL) == dataset
    assert ensure_synthetic_dataset(str(dataset), SMALL) == dataset


def test_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure half-way leaves neither a set nor remains, and the next call succeeds."""

    def fail_at_third(config: SyntheticConfig, split: str, index: int) -> Scene:
        if index == 2:
            raise KeyboardInterrupt
        return render_scene(config, split, index)

    monkeypatch.setattr(synthetic, "render_scene", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        ensure_synthetic_dataset(tmp_path / "set", SMALL)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    tiny = SyntheticConfig(num_train=1, num_val=1, num_unlabeled=0)
    (tmp_path / "set").mkdir()  # an empty folder is as good as none
    ensure_synthetic_dataset(tmp_path / "set", tiny)


def test_other_contents_are_refused(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another configuration, another version or foreign files raise, name the folder and stay."""
    with pytest.raises(ValueError, match=r"shapes is not the synthetic set .*'seed': 7.*'seed': 0"):
        ensure_synthetic_dataset(dataset, dataclasses.replace(SMALL, seed=7))
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    with pytest.raises(ValueError, match="delete it or choose another directory"):
        ensure_synthetic_dataset(dataset, SMALL)
    (tmp_path / "thesis.tex").write_text("years of work")
    for root in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(ValueError, match=f"{root.name} is not the synthetic set"):
            ensure_synthetic_dataset(root, SMALL)
    assert (tmp_path / "thesis.tex").exists()


def test_the_slower_of_two_processes_discards_its_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another process finishes the same set first, its set stays."""
    tiny = SyntheticConfig(num_train=1, num_val=1, num_unlabeled=0)
    write = synthetic._write

    def write_and_be_overtaken(root: Path, config: SyntheticConfig) -> None:
        write(root, config)
        write(tmp_path / "set", config)
        os.utime(tmp_path / "set" / "synthetic.json", (1, 1))

    monkeypatch.setattr(synthetic, "_write", write_and_be_overtaken)
    ensure_synthetic_dataset(tmp_path / "set", tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert (tmp_path / "set" / "synthetic.json").stat().st_mtime == 1
