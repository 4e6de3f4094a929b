"""Work directories belong to one config; the record that says so."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD_NAME = "run.json"
# How a run is carried out, not what it computes: may change between a run and its continuation.
EXECUTION_KEYS = frozenset({
    "work_dir", "resume", "launcher", "env_cfg", "config_file", "hint", "num_workers", "persistent_workers", "pin_memory",
    "cache", "cache_mib", "log_processor", "visualizer", "device", "monitor",
})
EXECUTION_HOOKS = ("checkpoint", "logger")  # of default_hooks


def config_fingerprint(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """SHA-256 of what a config computes, and the plain data that it was taken of (execution keys left out)."""
    plain = _without_execution_keys(json.loads(json.dumps(config, sort_keys=True, default=str)))
    for hook in EXECUTION_HOOKS:
        plain.get("default_hooks", {}).pop(hook, None)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest(), plain


def _without_execution_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_execution_keys(child) for key, child in value.items() if key not in EXECUTION_KEYS}
    return [_without_execution_keys(child) for child in value] if isinstance(value, list) else value


def check_work_dir(work_dir: str | Path, config: Mapping[str, Any]) -> str:
    """Checks that ``work_dir`` is free or holds a run of this config; changes nothing.

    Args:
        work_dir: may not exist yet.
        config: the resolved config as plain data.

    Returns:
        The config's SHA-256.

    Raises:
        ValueError: the directory holds a run of a different config (the keys that differ are named), or its record is
            unreadable.
    """
    sha256, plain = config_fingerprint(config)
    record_file = Path(work_dir) / RECORD_NAME
    if not record_file.exists():
        return sha256
    try:
        record = json.loads(record_file.read_text())
        known, known_config = record["config_sha256"], record["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{record_file} is damaged ({error}); delete {work_dir} or choose another --work-dir") from error
    if known != sha256:
        differing = differing_keys(known_config, plain)
        raise ValueError(f"{work_dir} holds a run of a different config; differing keys: "
                         f"{', '.join(differing[:5])}{', ...' if len(differing) > 5 else ''}; "
                         "choose another --work-dir or delete it")
    return sha256


def init_work_dir(work_dir: str | Path, config: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Writes the record of the run into ``work_dir``, unless it is there; to be called when all input is known to be good.

    Args:
        work_dir: may not exist yet.
        config: the resolved config as plain data; becomes part of the record with its fingerprint.
        record: see :func:`pretrain.results.store.new_record`.

    Returns and raises as :func:`check_work_dir`.
    """
    sha256 = check_work_dir(work_dir, config)
    record_file = Path(work_dir) / RECORD_NAME
    if not record_file.exists():
        _, plain = config_fingerprint(config)
        write_json(record_file, {**record, "config_sha256": sha256, "config": plain})
    return sha256


def differing_keys(a: Any, b: Any, prefix: str = "") -> list[str]:
    """Dotted names of the leaves in which two nested configs differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = sorted(a.keys() | b.keys())
        return [name for key in keys for name in differing_keys(a.get(key), b.get(key), f"{prefix}{key}.")]
    return [] if a == b else [prefix.rstrip(".")]


def check_writable(folder: str | Path) -> None:
    """Checks that files can be written to a folder, or that it can be made, before work is done whose result goes there.

    Raises:
        ValueError: they cannot.
    """
    existing = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"cannot write to {existing} ({error.strerror}); choose another place or change its permissions"
                         ) from error


def write_text(path: str | Path, text: str) -> None:
    """Writes a file whole or not at all; the folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Writes standard JSON (no NaN) whole or not at all; the folder is made."""
    write_text(path, json.dumps(content, allow_nan=False) + "\n")


def git_revision() -> str | None:
    """Revision of the source tree this package runs from, with ``-dirty`` where it has changes; None outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
