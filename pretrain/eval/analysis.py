"""What an encoder's features hold at every depth: linear probes and spectra (Fournier et al., 2023, figures 1b and 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.data.sources import default_splits
from pretrain.encoders import Encoder
from pretrain.eval.adam_probe import AdamLinearProbe
from pretrain.eval.data import CentreView, LabelledData, load_labelled_data
from pretrain.eval.encoders import RANDOM, PooledFeatures, block_names, frozen, load_encoder, pretraining_image_size
from pretrain.eval.evaluate import Readout, choose_image_size, find_device
from pretrain.eval.features import extract_features
from pretrain.eval.results import METRICS, accuracy_rows, data_protocol, evaluated, record_result, result_file
from pretrain.eval.session import DEFAULT_BATCH_SIZE, DEFAULT_IMAGE_SIZE, Method, Session, check_above_zero
from pretrain.eval.spectrum import feature_spectrum
from pretrain.eval.unlabelled import load_unlabelled_data
from pretrain.local.units import build_units
from pretrain.results.method import dataset_name, learner_options
from pretrain.results.store import ANALYSIS, measurement, new_record

POINTS = ("stages", "blocks")


def analyze_probes(readout: Readout, method: Method) -> dict[str, Any]:
    """Linear probes after every block of an encoder, from one forward pass (Fournier et al., 2023, figure 2).

    Args:
        readout: which encoder on which data; its ``stages`` have no effect.
        method: of linear evaluation, one on features that are extracted once.

    Returns:
        The record as it is written; docs/subsampling.md explains its fields.

    Raises:
        ValueError: as :func:`~pretrain.eval.evaluate.read_out`.
        RunFailedError: training diverged, or too many images cannot be decoded.
        EncoderChangedError: the encoder is not bit-identical afterwards.
    """
    device = find_device(readout.device)
    encoder, origin = load_encoder(readout.file, readout.encoder, readout.seed)
    data = _labelled_data(readout)
    identity = origin["identity"]
    image_size = readout.image_size or choose_image_size(identity["setting"])

    def measure() -> dict[str, Any]:
        session = Session(encoder.to(device), tuple(block_names(encoder)), data, image_size, readout.loading_workers,
                          readout.seed, device, autocast=readout.autocast)
        with frozen(encoder):
            outcome = method.run(session)
        blocks = [{**place, **{key: value for key, value in outcome.stages[place["name"]].items() if key not in METRICS}}
                  for place in _blocks(encoder, identity)]
        return dict(rows=accuracy_rows(outcome.stages, data.record, "probes"), details=dict(blocks=blocks),
                    corrupt=outcome.corrupt)

    variant = (*_other_splits(readout, data.record, "train_split", "test_split"), *_other_protocol(method),
               *_other_views(readout, identity["setting"], image_size))
    return _record(readout, origin, data.record, "probes", {"method": method.kind, **method.protocol()}, image_size, variant,
                   measure)


def _record(
    readout: Readout, origin: Mapping[str, Any], data: Mapping[str, Any], what: str, options: Mapping[str, Any],
    image_size: int, variant: Iterable[str], measure: Callable[[], Mapping[str, Any]],
) -> dict[str, Any]:
    """Measures and writes the record of an analysis, see :func:`~pretrain.eval.results.record_result`."""
    identity = origin["identity"]
    protocol = {"name": what, **options, "image_size": image_size, "autocast": readout.autocast, "data": data_protocol(data)}
    record = new_record(
        ANALYSIS, evaluated(identity, readout.seed), protocol, encoder_file={key: origin[key] for key in ("file", "sha256")},
        data=dict(data), data_root=str(Path(readout.data_root).resolve()))
    path = Path(readout.out or result_file(f"analysis_{what}", readout.file, identity["setting"]["encoder"], data,
                                           readout.seed, variant))
    return record_result(path, record, readout.resume, measure)


def _labelled_data(readout: Readout) -> LabelledData:
    try:
        return load_labelled_data(readout.source, readout.data_root, readout.train_split, readout.test_split, readout.limit,
                                  readout.seed)
    except ValueError as error:
        raise ValueError(f"probes need images with labels to train and test on: {error}; --what spectrum needs none"
                         ) from error


def _blocks(encoder: Encoder, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every block's place: index, name, stage, and whether a unit of its pretraining has its loss there."""
    try:
        units = build_units(learner_options(identity["method"], identity["setting"])["rule"], encoder.stages, True)
    except ValueError:  # not trained by this project, or by a rule that is not registered here
        units = []
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
    setting = origin["identity"]["setting"]
    image_size = readout.image_size or choose_image_size(setting)

    def measure() -> dict[str, Any]:
        names = tuple(encoder.stages if points == "stages" else block_names(encoder))
        with frozen(encoder.to(device)):
            pooled = PooledFeatures(encoder, names, readout.autocast).to(device).eval()
            extracted = extract_features(pooled, data.views(CentreView(image_size)), batch_size, readout.loading_workers,
                                         device)
        spectra = {name: _spectrum(x) for name, x in extracted.features.items()}
        dataset = dataset_name(data.record)
        return dict(
            rows=[measurement(dataset, "spectrum", metric, value, stage=name)
                  for name, spectrum in spectra.items() for metric, value in spectrum.items() if isinstance(value, float)],
            details=dict(images=len(extracted.labels), points=[
                dict(name=name, block=pooled.blocks[name], **spectrum) for name, spectrum in spectra.items()]),
            corrupt=extracted.corrupt,
        )

    variant = (*_other_splits(readout, data.record, None, "split"), *([points] if points != POINTS[0] else []),
               *_other_views(readout, setting, image_size))
    return _record(readout, origin, data.record, "spectrum", {"points": points}, image_size, variant, measure)


def _other_splits(readout: Readout, data: Mapping[str, Any], train: str | None, test: str) -> list[str]:
    """Which of the splits, under the keys ``train`` and ``test`` of the record, are not the default ones."""
    try:
        defaults: tuple[str | None, ...] = default_splits(readout.source, readout.data_root)
    except ValueError:
        defaults = (None, None)
    named = (data.get(key) if key else None for key in (train, test))
    return [split for split, default in zip(named, defaults, strict=True) if split not in (None, default)]


def _other_protocol(method: Method) -> list[str]:
    """What of a probe is not the default: its name, and its own options."""
    protocol, defaults = method.protocol(), type(method)().protocol()
    name = [] if method.kind == AdamLinearProbe.kind else [method.kind.removeprefix("linear_")]
    return name + [f"{key}{value}" for key, value in protocol.items() if value != defaults[key]]


def _other_views(readout: Readout, setting: Mapping[str, Any], image_size: int) -> list[str]:
    """Size, precision and seed, where they are not the default."""
    words = [f"{image_size}px"] if image_size != (pretraining_image_size(setting) or DEFAULT_IMAGE_SIZE) else []
    words += [readout.autocast] if readout.autocast else []
    named_already = readout.limit is not None or readout.file == RANDOM  # by the other parts of the name
    return words + ([f"seed{readout.seed}"] if readout.seed and not named_already else [])


def _spectrum(features: Tensor) -> dict[str, Any]:
    """The spectrum of features ``(N, C)`` as plain data."""
    found = feature_spectrum(features)
    return {"features": features.shape[1], **vars(found), "singular_values": found.singular_values.tolist()}
