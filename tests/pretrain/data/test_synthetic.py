"""The synthetic set as files: whole or not at all, and COCO reads back what was drawn."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pretrain.data import synthetic
from pretrain.data.synthetic import ensure_synthetic_dataset
from pretrain.data.synthetic_scenes import CATEGORIES, SPLITS, Scene, SyntheticConfig, render_scene

SMALL = SyntheticConfig(num_train=40, num_val=6, num_unlabeled=5)
REPOSITORY = Path(synthetic.__file__).parents[2]


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


# --- the annotations


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
    assert category_ids != list(range(1, 7)) and sorted(set(category_ids)) == category_ids


def test_coco_reads_back_exactly_what_was_drawn(dataset: Path) -> None:
    """pycocotools decodes every mask to the visible mask; area, box, flag and pixels fit it."""
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
                assert boxed[0].any() and boxed[-1].any()
                assert boxed[:, 0].any() and boxed[:, -1].any()


def test_every_encoding_occurs(dataset: Path) -> None:
    """Polygons prevail; compressed and uncompressed RLE occur, and crowds are uncompressed RLE."""
    content = json.loads((dataset / "annotations" / "instances_train2017.json").read_text())
    kinds = []
    for annotation in content["annotations"]:
        segmentation = annotation["segmentation"]
        kind = (
            "polygon" if isinstance(segmentation, list) else type(segmentation["counts"]).__name__
        )
        if annotation["iscrowd"]:
            assert kind == "list"
            kind = "crowd"
        kinds.append(kind)
    assert kinds.count("polygon") > 0.7 * len(kinds)
    assert {"polygon", "str", "crowd"} <= set(kinds)


# --- writing


def test_existing_set_is_left_alone(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call draws nothing and returns the folder."""
    monkeypatch.setattr(synthetic, "render_scene", lambda *_: pytest.fail("drew again"))
    assert ensure_synthetic_dataset(dataset, SMALL) == dataset
    assert ensure_synthetic_dataset(str(dataset), SMALL) == dataset


def test_other_contents_are_refused(dataset: Path, tmp_path: Path) -> None:
    """Another configuration, another version or foreign files raise, name the folder and stay."""
    with pytest.raises(ValueError, match=r"shapes.*'seed': 0.*'seed': 7.*delete it or choose"):
        ensure_synthetic_dataset(dataset, dataclasses.replace(SMALL, seed=7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
        with pytest.raises(ValueError, match="delete it or choose another directory"):
            ensure_synthetic_dataset(dataset, SMALL)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=f"{tmp_path.name} exists but is not a synthetic set"):
        ensure_synthetic_dataset(tmp_path, SMALL)
    assert (tmp_path / "thesis.tex").exists()
    with pytest.raises(ValueError, match="not a synthetic set"):
        ensure_synthetic_dataset(tmp_path / "thesis.tex", SMALL)


def test_damaged_set_is_refused(tmp_path: Path) -> None:
    """A set that lost an image or an annotation file is not passed off as complete."""
    tiny = SyntheticConfig(num_train=2, num_val=1, num_unlabeled=0)
    root = ensure_synthetic_dataset(tmp_path / "set", tiny)
    image = root / "train2017" / "000000000002.png"
    content = image.read_bytes()
    image.unlink()
    with pytest.raises(ValueError, match="has 1 of 2 images"):
        ensure_synthetic_dataset(root, tiny)
    image.write_bytes(content)
    (root / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(ValueError, match=r"instances_val2017\.json is missing"):
        ensure_synthetic_dataset(root, tiny)
    (root / "synthetic.json").write_text("{")
    with pytest.raises(ValueError, match="made from None"):
        ensure_synthetic_dataset(root, tiny)


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


def test_killed_run_leaves_no_set_and_its_remains_are_removed(tmp_path: Path) -> None:
    """After a kill there is no set under the name, and the next call clears what was left."""
    code = (
        "import os\n"
        "from pretrain.data import synthetic\n"
        "config = synthetic.SyntheticConfig()\n"
        "draw = synthetic.render_scene\n"
        "synthetic.render_scene = lambda c, s, i: os._exit(9) if i == 2 else draw(c, s, i)\n"
        f"synthetic.ensure_synthetic_dataset({str(tmp_path / 'set')!r}, config)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 9
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == 1 and left[0].startswith(".set.partial-")
    tiny = SyntheticConfig(num_train=1, num_val=1, num_unlabeled=0)
    ensure_synthetic_dataset(tmp_path / "set", tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_processes_at_once_write_one_set(tmp_path: Path) -> None:
    """Of three processes that start together one draws, the others wait, and all return."""
    code = (
        "from pretrain.data import synthetic\n"
        "draw, drawn = synthetic.render_scene, []\n"
        "synthetic.render_scene = lambda *a: drawn.append(a) or draw(*a)\n"
        "config = synthetic.SyntheticConfig(num_train=150, num_val=1, num_unlabeled=0)\n"
        f"synthetic.ensure_synthetic_dataset({str(tmp_path / 'set')!r}, config)\n"
        "print(len(drawn))"
    )
    command = [sys.executable, "-c", code]
    running = [
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    drawn = sorted(int(process.communicate(timeout=60)[0]) for process in running)
    assert drawn == [0, 0, 151]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_without_locks_the_slower_process_discards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another process finishes the same set first, its set stays and ours is thrown away."""
    tiny = SyntheticConfig(num_train=1, num_val=1, num_unlabeled=0)
    monkeypatch.setattr(synthetic, "fcntl", None)
    write = synthetic._write

    def write_and_be_overtaken(root: Path, config: SyntheticConfig) -> None:
        write(root, config)
        write(tmp_path / "set", config)
        os.utime(tmp_path / "set" / "synthetic.json", (1, 1))

    monkeypatch.setattr(synthetic, "_write", write_and_be_overtaken)
    ensure_synthetic_dataset(tmp_path / "set", tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert (tmp_path / "set" / "synthetic.json").stat().st_mtime == 1
