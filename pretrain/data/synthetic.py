"""The embedded default: a COCO-format instance-segmentation set that is drawn, not downloaded.

What its images show is told in `synthetic_scenes`; here they are written, whole or not at all.

    root/synthetic.json                        the configuration and version the set was made with
    root/annotations/instances_train2017.json  COCO instances: polygons, RLE, crowd regions
    root/annotations/instances_val2017.json
    root/train2017/000000000001.png
    root/val2017/000001000001.png
    root/unlabeled2017/000002000001.png        for pretraining, without annotations
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, MutableMapping
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

try:
    import fcntl
except ImportError:  # Windows: without the lock two processes may do the work twice, no more.
    fcntl = None

_MARKER = "synthetic.json"


def ensure_synthetic_dataset(root: Path | str, config: SyntheticConfig) -> Path:
    """Writes the set to `root` unless it is there.

    The set is written next to `root` and renamed when complete, so that a killed run leaves no half
    set under the name; the next call removes its remains. Of processes that call this at once, the
    others wait for the first; where locks do not work, the later ones discard what they wrote.

    Args:
        root: Folder of the set; may be missing or empty. Its parents are created.
        config: What to write.

    Returns:
        `root` as a path.

    Raises:
        ValueError: `root` holds anything but a complete set made from `config` by this version.
    """
    root = Path(root)
    target = root.resolve()  # a link's target is what has to be renamed to
    if _is_present(target, config):
        return root
    target.parent.mkdir(parents=True, exist_ok=True)
    # With the machine's name, because a lock on a shared disk may not hold across machines.
    prefix = f".{target.name}.partial-{platform.node()}-"
    with _one_at_a_time(target.parent) as is_alone:
        if is_alone:
            for remains in target.parent.glob(glob.escape(prefix) + "*"):
                shutil.rmtree(remains, ignore_errors=True)
        if not _is_present(target, config):  # another process may have written it while we waited
            _write_and_rename(target, config, prefix)
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
    """Whether the set is there and complete; False if there is nothing, an error for all else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    mend = "delete it or choose another directory"
    if not (root / _MARKER).is_file():
        raise ValueError(f"{root} exists but is not a synthetic set (no {_MARKER}): {mend}")
    found = None
    with contextlib.suppress(ValueError):
        found = json.loads((root / _MARKER).read_text())
    if found != _marker(config):
        raise ValueError(
            f"{root} holds a synthetic set made from {found}, not from {_marker(config)}: {mend}"
        )
    for split in SPLITS:
        number = sum(1 for _ in (root / split).glob("*.png"))
        if number != config.count(split):
            raise ValueError(f"{root / split} has {number} of {config.count(split)} images: {mend}")
    for split in LABELLED_SPLITS:
        if not _annotation_file(root, split).is_file():
            raise ValueError(f"{_annotation_file(root, split)} is missing from {root}: {mend}")
    return True


def _marker(config: SyntheticConfig) -> dict:
    return {"generator": "pretrain.data.synthetic", "version": VERSION, "config": asdict(config)}


def _annotation_file(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}.json"


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[bool]:
    """Holds a lock on the folder itself, which leaves no file behind; yields whether it is held.

    The lock only saves work and cleans up: the rename alone keeps the set whole, so that file
    systems without locks do no harm.
    """
    handle, is_held = None, False
    if fcntl is not None:
        handle = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
            is_held = True
    try:
        yield is_held
    finally:
        if handle is not None:
            os.close(handle)


def _write_and_rename(target: Path, config: SyntheticConfig, prefix: str) -> None:
    partial = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        # One level deeper, because mkdtemp's own folder is closed to other users.
        fresh = partial / "set"
        _write(fresh, config)
        try:
            fresh.rename(target)
        except OSError:  # a process that shares no lock with us was faster
            if not _is_present(target, config):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(root: Path, config: SyntheticConfig) -> None:
    (root / "annotations").mkdir(parents=True)
    total = sum(config.count(split) for split in SPLITS)
    with tqdm(total=total, desc="drawing the synthetic set", unit="image", delay=1.0) as progress:
        for split in SPLITS:
            (root / split).mkdir()
            content = {
                "info": {"description": "Synthetic textured shapes", "version": str(VERSION)},
                "licenses": [],
                "images": [],
                "annotations": [],
                "categories": list(CATEGORIES),
            }
            for index in range(config.count(split)):
                scene, image_id = render_scene(config, split, index), SPLITS[split] + index
                file_name, size = f"{image_id:012d}.png", config.image_size
                # Encoding in memory, because cv2.imwrite does not say that the disk is full.
                _, png = cv2.imencode(".png", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
                (root / split / file_name).write_bytes(png)
                content["images"].append(
                    {"id": image_id, "file_name": file_name, "width": size, "height": size}
                )
                if split in LABELLED_SPLITS:
                    content["annotations"] += coco_annotations(scene, image_id)
                progress.update()
            if split in LABELLED_SPLITS:
                _annotation_file(root, split).write_text(json.dumps(content, separators=(",", ":")))
    (root / _MARKER).write_text(json.dumps(_marker(config), indent=2) + "\n")
