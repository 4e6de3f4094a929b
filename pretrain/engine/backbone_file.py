"""Exchange of backbones: export from a training checkpoint, and strict import from every source there is.

An exported backbone is a ``torch.save`` file ``{"state_dict": ..., "meta": ...}``: the encoder's weights under
torchvision's names, loadable with ``weights_only=True`` by anybody (mmdet's ``init_cfg`` included), and a record of where
they come from. Import accepts that, a training checkpoint of ours, and a bare state dict (torchvision's ResNets); every
encoder key must match, only known extras (classifier, heads) may be left over.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.encoders import Encoder, build_encoder, encoder_spec
from pretrain.engine.checkpoints import CheckpointError, file_sha256, load_checkpoint

FORMAT = "loco-det-backbone"
FORMAT_VERSION = 2
RECORD_KEY = "pretraining"  # where a training checkpoint keeps its record, see pretrain.engine.hooks.RecordHook
ENCODER_PREFIX = "encoder."
KNOWN_EXTRAS = ("fc.", "heads.", "decoders.", "objectives.", "head.")


@dataclass(frozen=True)
class BackboneFile:
    """Encoder weights read from a file, and what the file says of them.

    Attributes:
        path: the file.
        sha256: hash of the whole file.
        state_dict: encoder weights under the encoder's own names; known extras are dropped.
        meta: the metadata record; empty for a bare state dict.
    """

    path: Path
    sha256: str
    state_dict: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def encoder(self) -> dict[str, Any] | None:
        """Config of the encoder; None where the file does not say."""
        return self.meta.get("setting", {}).get("encoder")


def export_backbone(checkpoint: str | Path, out: str | Path) -> dict[str, Any]:
    """Writes the bare encoder weights of a training checkpoint.

    Args:
        checkpoint: a checkpoint written by :func:`pretrain.run.pretrain`.
        out: the file to write; its folder is made.

    Returns:
        The metadata record: ``format``, ``version``, the checkpoint's (:class:`pretrain.engine.hooks.RecordHook`), and
        ``argv``, the command line.

    Raises:
        CheckpointError: the file is truncated, no training checkpoint of ours, or its keys do not fit its encoder.
    """
    content = load_checkpoint(checkpoint)
    record = content.get(RECORD_KEY)
    if not isinstance(record, Mapping) or "method" not in record:
        raise CheckpointError(f"{checkpoint} is not a pretraining checkpoint (it has no {RECORD_KEY!r} record); "
                              "pass an epoch_*.pth that tools/pretrain.py wrote")
    backbone = read_backbone(checkpoint)
    load_into(build_encoder(backbone.encoder), backbone)  # proves that the keys are complete
    meta = {"format": FORMAT, "version": FORMAT_VERSION, **record, "argv": list(sys.argv)}
    out = Path(out)
    if out.is_dir():
        raise CheckpointError(f"{out} is a folder; name the file to write, such as {out / 'backbone.pth'}")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    torch.save({"state_dict": backbone.state_dict, "meta": meta}, partial)
    partial.replace(out)
    return meta


def read_backbone(path: str | Path) -> BackboneFile:
    """Reads encoder weights from an exported backbone, a training checkpoint of ours, or a bare state dict.

    Raises:
        CheckpointError: the file cannot be read or holds no weights.
    """
    path = Path(path)
    content = load_checkpoint(path)
    weights = content.get("state_dict", content)
    if not isinstance(weights, Mapping) or not any(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path} holds no weights; an exported backbone, a training checkpoint or a state dict "
                              "is needed")
    kept = {str(key): value for key, value in weights.items() if not str(key).startswith(KNOWN_EXTRAS)}
    if any(key.startswith(ENCODER_PREFIX) for key in kept):
        # what stands beside the encoder must not slip in under an encoder's name: it stays unexpected
        kept = {key.removeprefix(ENCODER_PREFIX) if key.startswith(ENCODER_PREFIX) else f"<root>.{key}": value
                for key, value in kept.items()}
    return BackboneFile(path, file_sha256(path), kept, _record_of(path, content))


def _record_of(path: Path, content: Mapping) -> dict[str, Any]:
    """The record in a file; empty of files from elsewhere, and of those of version 1, which did not describe its method."""
    meta = content.get("meta")
    exported = isinstance(meta, Mapping) and meta.get("format") == FORMAT
    if exported and meta.get("version", 1) > FORMAT_VERSION:
        raise CheckpointError(f"{path} has version {meta['version']} of the format, but this package knows up to "
                              f"{FORMAT_VERSION}; update the package")
    record = meta if exported else content.get(RECORD_KEY)
    return dict(record) if isinstance(record, Mapping) and isinstance(record.get("method"), Mapping) else {}


def load_into(encoder: Encoder, backbone: BackboneFile, expected: str | Mapping | None = None) -> None:
    """Loads weights into an encoder, strictly.

    Args:
        encoder: takes the weights.
        backbone: what :func:`read_backbone` returned.
        expected: the encoder's name or config, compared with the file's record where it has one.

    Raises:
        CheckpointError: the file is of another encoder, keys are missing, unexpected or of another shape (the first
            five are named), or a weight is not finite. Counters of batch norm (``num_batches_tracked``), which files from
            before torch 0.4.1 do not have, may be missing.
    """
    if expected is not None and backbone.encoder is not None:
        check_same_encoder(backbone.path, backbone.encoder, expected)
    own = encoder.state_dict()
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    given = {**counters, **backbone.state_dict}
    told = state_dict_problems(own, given)
    if told:
        wanted = "" if expected is None else f" {_spell(expected)}"
        raise CheckpointError(f"{backbone.path} does not fit the encoder{wanted}; keys: {told}")
    encoder.load_state_dict(given, strict=True)


def check_same_encoder(path: str | Path, found: str | Mapping, expected: str | Mapping) -> None:
    """Compares the encoder that a file is of with the one that is needed, each a name or config.

    Raises:
        CheckpointError: they differ.
    """
    if encoder_spec(found) != encoder_spec(expected):
        raise CheckpointError(f"{path} holds the encoder {_spell(found)}, but {_spell(expected)} is needed; "
                              "pass a file of that encoder or change the config's encoder")


def state_dict_problems(own: Mapping[str, Tensor], given: Mapping[str, Any]) -> str:
    """What keeps the weights ``given`` from being loaded in place of ``own``, with the first five keys; empty if nothing."""
    problems = {
        "missing": sorted(own.keys() - given.keys()),
        "unexpected": sorted(given.keys() - own.keys()),
        "of another shape": sorted(k for k in own.keys() & given.keys() if getattr(given[k], "shape", None) != own[k].shape),
    }
    if not any(problems.values()):
        problems["not finite"] = sorted(key for key, value in given.items() if not value.isfinite().all())
    return "; ".join(
        f"{len(keys)} {kind} ({', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''})"
        for kind, keys in problems.items() if keys
    )


def _spell(spec: str | Mapping) -> str:
    spec = encoder_spec(spec)
    options = ", ".join(f"{key}={value!r}" for key, value in sorted(spec.items()) if key != "type")
    return f"{spec['type']}({options})" if options else str(spec["type"])

