"""What an encoder's features hold at every depth: linear probes and spectra (Fournier et al., 2023, figures 1b and 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pretrain.data.sources import default_splits
from pretrain.encoders import Encoder
from pretrain.local_units import build_units
from pretrain.readout.adam_probe import AdamLinearProbe
from pretrain.readout.analysis_files import Analysis, record_analysis
from pretrain.readout.data import CentreView, LabelledData, load_labelled_data
from pretrain.readout.encoders import RANDOM, PooledFeatures, block_names, frozen, load_encoder, pretraining_image_size
from pretrain.readout.evaluate import Readout, choose_image_size, find_device
from pretrain.readout.features import extract_features
from pretrain.readout.session import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_IMAGE_SIZE,
    Method,
    Session,
    check_above_zero,
    default_workers,
)
from pretrain.readout.spectrum import feature_spectrum
from pretrain.readout.unlabelled import load_unlabelled_data

POINTS = ("stages", "blocks")


def analyze_probes(readout: Readout, method: Method) -> dict[str, Any]:
    """Linear probes after every block of an encoder, from one forward pass (Fournier et al., 2023, figure 2).

    Args:
        readout: which encoder on which data; its ``stages`` have no effect.
        method: of linear evaluation, one on features that are extracted once.

    Returns:
        The record as it is written; docs/subsampling.md explains its fields.

    Raises:
        ValueError: as :func:`~pretrain.readout.evaluate.read_out`.
        RunFailedError: training diverged, or too many images cannot be decoded.
        EncoderChangedError: the encoder is not bit-identical afterwards.
    """
    device = find_device(readout.device)
    encoder, origin = load_encoder(readout.file, readout.encoder, readout.seed)
    data = _labelled_data(readout)
    image_size = readout.image_size or choose_image_size(origin["meta"])
    settings = dict(encoder=origin, data=data.record, protocol=dict(method.protocol(), autocast=readout.autocast),
                    image_size=image_size, seed=readout.seed)

    def measure() -> dict[str, Any]:
        session = Session(encoder.to(device), tuple(block_names(encoder)), data, image_size, _workers(readout), readout.seed,
                          device, settings=settings, autocast=readout.autocast)
        with frozen(encoder):
            outcome = method.run(session)
        places = {place["name"]: place for place in _blocks(encoder, origin["meta"])}
        return dict(data={**data.record, "undecodable": outcome.undecodable},
                    blocks=[{**places[name], **found} for name, found in outcome.stages.items()])

    variant = (*_other_splits(readout, data.record, "train_split", "test_split"), *_other_protocol(method),
               *_other_views(readout, settings))
    return record_analysis(Analysis("probes", readout.file, settings, variant, readout.out, readout.resume), measure)


def _labelled_data(readout: Readout) -> LabelledData:
    try:
        return load_labelled_data(readout.source, readout.data_root, readout.train_split, readout.test_split, readout.limit,
                                  readout.seed)
    except ValueError as error:
        raise ValueError(f"probes need images with labels to train and test on: {error}; --what spectrum needs none"
                         ) from error


def _blocks(encoder: Encoder, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every block's place: index, name, stage, and whether a unit of its pretraining has its loss there."""
    units = build_units(meta["rule"], encoder.stages, allow_untrained=True) if "rule" in meta else []
    ends = {unit.end - 1 for unit in units}
    stages = {block: stage for stage, (start, end) in encoder.stages.items() for block in range(start, end)}
    return [dict(block=block, name=name, stage=stages[block], end_of_unit=block in ends)
            for name, block in block_names(encoder).items()]


def analyze_spectrum(readout: Readout, points: str = "stages", batch_size: int = DEFAULT_BATCH_SIZE) -> dict[str, Any]:
    """Spectra of an encoder's pooled features, from one forward pass and without labels (Fournier et al., 2023, figure 1b).

    Args:
        readout: which encoder on which images: those of ``test_split``, by default of the set's own test split, or all where
            there is none. ``limit`` takes a random subset of them; ``train_split`` and ``stages`` have no effect.
        points: ``"stages"`` or ``"blocks"``: after each of which.
        batch_size: images that are run through the encoder at once, of all processes together.

    Returns:
        The record as it is written; docs/subsampling.md explains its fields.

    Raises:
        ValueError: the encoder's file, the images or the options do not fit; or the record cannot be written, or would
            overwrite one of other settings.
        RunFailedError: features are not finite, or too many images cannot be decoded.
        EncoderChangedError: the encoder is not bit-identical afterwards.
    """
    if points not in POINTS:
        raise ValueError(f"points is {points!r}; choose of {', '.join(POINTS)}")
    check_above_zero(batch_size=batch_size)
    device = find_device(readout.device)
    encoder, origin = load_encoder(readout.file, readout.encoder, readout.seed)
    data = load_unlabelled_data(readout.source, readout.data_root, readout.test_split, readout.limit, readout.seed)
    image_size = readout.image_size or choose_image_size(origin["meta"])
    settings = dict(encoder=origin, data=data.record, protocol=dict(points=points, autocast=readout.autocast),
                    image_size=image_size, seed=readout.seed)

    def measure() -> dict[str, Any]:
        names = tuple(encoder.stages if points == "stages" else block_names(encoder))
        with frozen(encoder.to(device)):
            pooled = PooledFeatures(encoder, names, readout.autocast).to(device).eval()
            extracted = extract_features(pooled, data.views(CentreView(image_size)), batch_size, _workers(readout), device)
        return dict(
            data={**data.record, "undecodable": extracted.undecodable},
            images=len(extracted.labels),
            points=[dict(name=name, block=pooled.blocks[name], **_spectrum(x)) for name, x in extracted.features.items()],
        )

    variant = (*_other_splits(readout, data.record, None, "split"), *([points] if points != POINTS[0] else []),
               *_other_views(readout, settings))
    return record_analysis(Analysis("spectrum", readout.file, settings, variant, readout.out, readout.resume), measure)


def _other_splits(readout: Readout, data: Mapping[str, Any], train: str | None, test: str) -> list[str]:
    """Which of the splits, under the keys ``train`` and ``test`` of the record, a readout does not take by default."""
    try:
        defaults: tuple[str | None, ...] = default_splits(readout.source, readout.data_root)
    except ValueError:
        defaults = (None, None)
    named = (data.get(key) if key else None for key in (train, test))
    return [split for split, default in zip(named, defaults, strict=True) if split not in (None, default)]


def _other_protocol(method: Method) -> list[str]:
    """What of a probe is not the default: its name, and its own options."""
    protocol, defaults = method.protocol(), type(method)().protocol()
    name = [] if method.kind == AdamLinearProbe.kind else [protocol["name"]]
    return name + [f"{key}{value}" for key, value in protocol.items() if value != defaults[key]]


def _other_views(readout: Readout, settings: Mapping[str, Any]) -> list[str]:
    """Size, precision and seed, where they are not the default."""
    default_size = pretraining_image_size(settings["encoder"]["meta"]) or DEFAULT_IMAGE_SIZE
    told = [f"{settings['image_size']}px"] if settings["image_size"] != default_size else []
    told += [readout.autocast] if readout.autocast else []
    told_already = readout.limit is not None or readout.file == RANDOM  # by the other parts of the name
    return told + ([f"seed{readout.seed}"] if readout.seed and not told_already else [])


def _spectrum(features: Tensor) -> dict[str, Any]:
    """The spectrum of features ``(N, C)`` as plain data."""
    found = feature_spectrum(features)
    return {"features": features.shape[1], **vars(found), "singular_values": found.singular_values.tolist()}


def _workers(readout: Readout) -> int:
    return default_workers() if readout.workers is None else readout.workers
