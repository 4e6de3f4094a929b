"""The embedded default: a COCO-format instance-segmentation set that is generated, not downloaded.

`synthetic_scenes` describes what its images show; here they are written, whole or not at all.

    root/synthetic.json                        the configuration and version the set was made with
    root/annotations/instances_train2017.json  COCO instances: polygons, RLE, crowd regions
    root/annotations/instances_val2017.json
    root/train2017/000000000001.png
    root/val2017/000001000001.png
    root/unlabeled2017/000002000001.png        for pretraining, without annotations
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import MutableMapping
from dataclasses import asdict
from pathlib import Path

import cv2
from tqdm import tqdm

from pretrain.data.synthetic_scenes import (
    CATEGORIES,
    LABELLED_SPLITS,
    SPLITS,
    VERSION,
    SyntheticConfig,
    coco_annotations,
    render_scene,
)

_MARKER = "synthetic.json"


def ensure_synthetic_dataset(root: Path | str, config: SyntheticConfig) -> Path:
    """Writes the set to `root` unless it is there.

    The set is written to a temporary folder next to `root` and renamed when complete. Of processes that do so at once, the
    later ones discard theirs.

    Args:
        root: Folder of the set; may be missing or empty. Its parents are created.
        config: What to write.

    Returns:
        `root` as a path.

    Raises:
        ValueError: `root` holds anything but a set made from `config` by this version.
    """
    root = Path(root)
    target = root.resolve()  # a link's target is what has to be renamed to
    if _is_present(target, config):
        return root
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.partial-", dir=target.parent) as partial:
        fresh = Path(partial) / "set"  # one level deeper, because the temporary folder is closed to other users
        _write(fresh, config)
        try:
            fresh.rename(target)
        except OSError:  # another process was faster
            if not _is_present(target, config):
                raise
    return root


def ensure_configured(config: MutableMapping) -> None:
    """Makes the set that a run's config asks for by ``synthetic_data = dict(root=..., **options)``; nothing without it.

    The generator's version is added to the config (in place), so that it is part of what identifies the run.

    Raises:
        ValueError: an option is unknown or out of range, or see :func:`ensure_synthetic_dataset`.
    """
    if "synthetic_data" not in config:
        return
    options = {key: value for key, value in config["synthetic_data"].items() if key not in ("root", "version")}
    try:
        synthetic = SyntheticConfig(**options)
    except TypeError as error:
        raise ValueError(f"options of synthetic_data do not fit: {error}") from error
    ensure_synthetic_dataset(config["synthetic_data"]["root"], synthetic)
    config["synthetic_data"]["version"] = VERSION


def _is_present(root: Path, config: SyntheticConfig) -> bool:
    """Whether the set is there; False if there is nothing, an error for all else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    file, expected = root / _MARKER, _marker(config)
    found = json.loads(file.read_text()) if file.is_file() else None
    if found != expected:
        raise ValueError(f"{root} is not the synthetic set {expected}, but {found or 'something else'}; delete it or choose "
                         "another directory")
    return True


def _marker(config: SyntheticConfig) -> dict:
    return {"generator": "pretrain.data.synthetic", "version": VERSION, "config": asdict(config)}


def _write(root: Path, config: SyntheticConfig) -> None:
    (root / "annotations").mkdir(parents=True)
    total = sum(config.count(split) for split in SPLITS)
    with tqdm(total=total, desc="drawing the synthetic set", unit="image", delay=1.0) as progress:
        for split in SPLITS:
            (root / split).mkdir()
            content = {
                "info": {"description": "Synthetic arrangements of stripes", "version": str(VERSION)},
                "licenses": [],
                "images": [],
                "annotations": [],
                "categories": list(CATEGORIES),
            }
            for index in range(config.count(split)):
                scene, image_id = render_scene(config, split, index), SPLITS[split] + index
                file_name, size = f"{image_id:012d}.png", config.image_size
                # encoded in memory, because cv2.imwrite does not report a full disk
                _, png = cv2.imencode(".png", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
                (root / split / file_name).write_bytes(png)
                content["images"].append({"id": image_id, "file_name": file_name, "width": size, "height": size})
                if split in LABELLED_SPLITS:
                    content["annotations"] += coco_annotations(scene, image_id)
                progress.update()
            if split in LABELLED_SPLITS:
                file = root / "annotations" / f"instances_{split}.json"
                file.write_text(json.dumps(content, separators=(",", ":")))
    (root / _MARKER).write_text(json.dumps(_marker(config), indent=2) + "\n")
