"""Evaluations from files to records: loads encoder and data, runs a protocol, checks that the encoder is unchanged."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import print_log

from pretrain.distributed import comm
from pretrain.encoders import Encoder
from pretrain.engine.cli import parse_encoder
from pretrain.engine.work_dir import check_writable, differing_keys
from pretrain.eval.arguments import named
from pretrain.eval.data import DEFAULT_IMAGE_SIZE, LabelledData, default_workers, load_labelled_data
from pretrain.eval.features import PooledFeatures, find_device, frozen, load_encoder
from pretrain.eval.finetune import MOMENTUM, fine_tuning
from pretrain.eval.knn import nearest_neighbours
from pretrain.eval.logistic import PENALTIES, logistic_probe
from pretrain.eval.probes import MILESTONES, Corrupt, StageResults, StateFile, adam_probe, linear_probe
from pretrain.results.files import RecordError
from pretrain.results.method import RANDOM, dataset_name
from pretrain.results.store import EVALUATION, measurement, new_record, read_record, write_record

RANDOM_FOLDER = Path("work_dirs/eval")
METRICS = ("top1", "top5", "train_top1")
DATA_KEYS = ("source", "train_split", "test_split", "split", "train_images", "test_images", "images", "classes", "limit",
             "fingerprint")  # of a data set's record, those that values to be averaged have in common
AUGMENTATION = "random resized crop (0.08-1, bilinear), flip"


class Protocol(NamedTuple):
    """A way to evaluate an encoder.

    Attributes:
        name: in records, tables and names of files.
        run: ``(pooled, data, **options)`` -> results by stage, and how many images were corrupt.
        defaults: its options.
        facts: what else a record says of it.
        on_images: whether it trains on augmented images: then it saves its ``state`` after every epoch, and the default
            learning rate, at batch size 256, is in proportion to the batch size.
    """

    name: str
    run: Callable[..., tuple[StageResults, Corrupt]]
    defaults: Mapping[str, Any]
    facts: Mapping[str, Any]
    on_images: bool = False


PROTOCOLS = {
    "linear": Protocol("linear", linear_probe, dict(epochs=100, batch_size=256, lr=30.0), dict(
        momentum=0.0, weight_decay=0.0, lr_drops=[tenths / 10 for tenths in MILESTONES], augmentation=AUGMENTATION),
        on_images=True),
    "cached": Protocol("linear_cached", logistic_probe, dict(batch_size=256), dict(
        classifier="scikit-learn's logistic regression", penalties=list(PENALTIES), augmentation=None)),
    "adam": Protocol("linear_adam", adam_probe, dict(epochs=200, batch_size=256, lr=1e-3, weight_decay=1e-6), dict(
        augmentation=None)),
    "knn": Protocol("knn", nearest_neighbours, dict(k=200, temperature=0.07, batch_size=256), dict(
        similarity="cosine", augmentation=None)),
    # the learning rate is SimCLR's for few labels, appendix B.5
    "finetune": Protocol("finetune", fine_tuning, dict(epochs=30, batch_size=256, lr=0.05, weight_decay=1e-4), dict(
        momentum=MOMENTUM, nesterov=True, schedule="cosine", augmentation=AUGMENTATION), on_images=True),
}


@dataclass(frozen=True)
class Inputs:
    """Which encoder is evaluated on which images, and where the result goes; the names are those of the tools' options.

    Attributes:
        file: an exported backbone, a training checkpoint, a bare state dict, or ``"random"``.
        encoder: name or config of the encoder, where the file does not say.
        encoder_options: further options of it.
        data: name or config of a data set.
        data_options: further options of it.
        data_root: where it reads from.
        limit: number of (training) images in a subset; None for all.
        image_size: side of the views in pixels; None for that of the pretraining's views, or 224 where it is not recorded.
        autocast: ``"bfloat16"`` to run the encoder in that type, None for float32.
        workers: processes that load images; None to choose by the number of processors.
        seed: of everything random, a random encoder included.
        device: of torch; ``"auto"`` is CUDA where there is one.
        out: file of the result; None to put it beside the checkpoint.
        resume: continue an interrupted run, and do not repeat a finished one of the same settings.
    """

    file: str
    encoder: str | Mapping | None = None
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    data: str | Mapping = "folder"
    data_options: Mapping[str, Any] = field(default_factory=dict)
    data_root: str = "data"
    limit: int | None = None
    image_size: int | None = None
    autocast: str | None = None
    workers: int | None = None
    seed: int = 0
    device: str = "auto"
    out: str | None = None
    resume: bool = False

    @property
    def source(self) -> str | Mapping:
        """The data set with its options."""
        return named(self.data, self.data_options)

    @property
    def loading_workers(self) -> int:
        """Processes that load images."""
        return default_workers() if self.workers is None else self.workers

    def load_encoder(self) -> tuple[Encoder, dict[str, Any]]:
        """The encoder on its device and its origin, see :func:`~pretrain.eval.features.load_encoder`."""
        device = find_device(self.device)
        encoder = parse_encoder(self.encoder) if isinstance(self.encoder, str) else self.encoder
        built, origin = load_encoder(self.file, named(encoder, self.encoder_options), self.seed)
        return built.to(device), origin

    def view_size(self, setting: Mapping[str, Any]) -> int:
        """Side of the views in pixels, of an encoder that was pretrained in a setting."""
        size = self.image_size or setting.get("image_size") or DEFAULT_IMAGE_SIZE
        print_log(f"image size {size}; --image-size chooses another", logger="current")
        return size

    def load_data(self, image_size: int, train_split: str | None, test_split: str | None) -> LabelledData:
        """The training and test sets."""
        return load_labelled_data(self.source, self.data_root, train_split, test_split, self.limit, self.seed, image_size,
                                  self.loading_workers)


def evaluate(
    file: str, protocol: str = "linear", *, stage: str = "all", train_split: str | None = None,
    test_split: str | None = None, epochs: int | None = None, batch_size: int | None = None, lr: float | None = None,
    weight_decay: float | None = None, k: int | None = None, temperature: float | None = None, **inputs: Any,
) -> dict[str, Any]:
    """Evaluates an encoder and writes the record, in the first of the processes.

    Args:
        file: an exported backbone, a training checkpoint, a bare state dict, or ``"random"``.
        protocol: a key of :data:`PROTOCOLS`, whose defaults are those of the further options.
        stage: ``"all"``, ``"last"`` or a stage's name; fine-tuning has the last one alone.
        train_split: None for the data set's own.
        test_split: None for the data set's own.
        epochs: of training.
        batch_size: images of a step, or where no steps are taken those that are run through the encoder at once; of all
            processes together.
        lr: initial learning rate.
        weight_decay: of what is trained.
        k: number of neighbours.
        temperature: of the neighbours' votes.
        **inputs: see :class:`Inputs`.

    Returns:
        The record as it is written, see :mod:`pretrain.results.store`.

    Raises:
        ValueError: the encoder's file, the data or the options do not fit; or the result cannot be written, or would
            overwrite one of other settings; or a state file is in the way.
        RunFailedError: training diverged, or too many images are corrupt.
        EncoderChangedError: the encoder is not bit-identical after a protocol that must keep it.
    """
    method, options = protocol_options(protocol, epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, k=k,
                                       temperature=temperature)
    inputs = Inputs(file, **inputs)
    encoder, origin = inputs.load_encoder()
    stages = choose_stages(encoder, "last" if method.run is fine_tuning else stage)
    data = inputs.load_data(inputs.view_size(origin["identity"]["setting"]), train_split, test_split)
    record = record_of(EVALUATION, inputs, origin, {
        "name": method.name, **recorded_options(method, options), "image_size": data.image_size,
    }, data.record, stages=list(stages))

    def measure(state: StateFile) -> dict[str, Any]:
        results, corrupt = run_protocol(method, options, encoder, stages, data, inputs.autocast, state)
        details = {name: {key: value for key, value in found.items() if key not in METRICS}
                   for name, found in results.items()}
        return dict(rows=accuracy_rows(results, data.record, method.name), details=details, corrupt=corrupt)

    return record_result(inputs, record, method.name, measure)


def protocol_options(protocol: str, **given: float | None) -> tuple[Protocol, dict[str, Any]]:
    """A protocol and all of its options.

    Args:
        protocol: a key of :data:`PROTOCOLS`.
        given: options; None for the default.

    Raises:
        ValueError: there is no such protocol, it has no such option, or a value is out of range.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    method = PROTOCOLS[protocol]
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name not in method.defaults:
            raise ValueError(f"--{name.replace('_', '-')} is not an option of the protocol {protocol!r}; leave it out")
        if not (0 < value < float("inf") or name == "weight_decay" and value == 0):
            raise ValueError(f"{name} is {value}; it must be above 0")
    options = {**method.defaults, **given}
    if "lr" not in given and method.on_images:
        options["lr"] *= options["batch_size"] / 256
    return method, options


def recorded_options(method: Protocol, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a protocol; a batch size only where steps are taken, as elsewhere it changes no result."""
    recorded = {name: value for name, value in options.items() if name != "batch_size" or "epochs" in options}
    return {**recorded, **method.facts}


def run_protocol(
    method: Protocol, options: Mapping[str, Any], encoder: Encoder, stages: tuple[str, ...], data: LabelledData,
    autocast: str | None, state: StateFile | None = None,
) -> tuple[StageResults, Corrupt]:
    """Follows a protocol; unless it fine-tunes, the encoder is proved to be bit-identical afterwards."""
    with nullcontext() if method.run is fine_tuning else frozen(encoder):
        pooled = PooledFeatures(encoder, stages, autocast).to(next(encoder.parameters()).device).eval()
        return method.run(pooled, data, **options, **(dict(state=state) if method.on_images else {}))


def choose_stages(encoder: Encoder, stage: str) -> tuple[str, ...]:
    """``"all"``, ``"last"`` or a stage's name -> names of the encoder's stages, bottom up.

    Raises:
        ValueError: there is no such stage.
    """
    names = tuple(encoder.stages)
    known = {"all": names, "last": names[-1:], **{name: (name,) for name in names}}
    if stage not in known:
        raise ValueError(f"stage is {stage!r}; choose one of {', '.join(known)}")
    return known[stage]


@contextmanager
def launched() -> Iterator[None]:
    """Makes this process one of those that torchrun started, where it did."""
    comm.start_processes(comm.find_launcher())
    try:
        yield
    finally:
        comm.stop_processes()


def record_of(
    kind: str, inputs: Inputs, origin: Mapping[str, Any], protocol: Mapping[str, Any], data: Mapping[str, Any],
    **content: Any,
) -> dict[str, Any]:
    """The record of an evaluation or analysis of features that begins now."""
    options = {key: value for key, value in data["options"].items() if not isinstance(value, str)}  # no files and folders
    data_protocol = {**{key: data[key] for key in DATA_KEYS if key in data}, **({"options": options} if options else {})}
    return new_record(
        kind, evaluated(origin["identity"], inputs.seed), {**protocol, "autocast": inputs.autocast, "data": data_protocol},
        encoder_file={key: origin[key] for key in ("file", "sha256")}, data=dict(data),
        data_root=str(Path(inputs.data_root).resolve()), **content)


def evaluated(identity: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The identity of an encoder that is evaluated with a seed, which of random encoders is their own."""
    if identity["method"].get("source") == RANDOM:
        return dict(identity)
    return {**identity, "repetition": {**identity["repetition"], "evaluation_seed": seed}}


def accuracy_rows(stages: Mapping[str, Mapping[str, Any]], data: Mapping[str, Any], protocol: str) -> list[dict[str, Any]]:
    """The accuracies of stages or blocks, bottom up, as measurements."""
    return [measurement(dataset_name(data), protocol, metric, found[metric], stage=stage)
            for stage, found in stages.items() for metric in METRICS if found.get(metric) is not None]


def record_result(
    inputs: Inputs, record: dict[str, Any], name: str, measure: Callable[[StateFile], Mapping[str, Any]]
) -> dict[str, Any]:
    """Measures, unless there is a finished result of the same settings to resume, and writes the record.

    Args:
        inputs: of the evaluation or analysis.
        record: what is known before, see :func:`pretrain.results.store.new_record`.
        name: of the kind of result, the first part of the file's name.
        measure: returns what else belongs in the record, with its ``rows``; it may save its state in the file it is given.

    Raises:
        ValueError: the record cannot be written, or would overwrite something else.
    """
    settings = settings_of(record)
    path = comm.broadcast_from_rank0(lambda: result_file(inputs, record, name, settings))
    if inputs.resume and path.exists():
        print_log(f"{path} is finished", logger="current")
        return dict(read_record(path).content)
    state = StateFile(path.with_suffix(".state.pth"), settings, inputs.resume)
    started = time.perf_counter()
    record = {**record, **measure(state)}
    record["duration_s"] = round(time.perf_counter() - started, 3)
    if comm.rank() == 0:
        write_record(path, record)
        state.path.unlink(missing_ok=True)
        print_log(f"result written to {path}", logger="current")
    return record


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal for a record to be that of the same evaluation of the same weights."""
    return json.loads(json.dumps({
        **{key: record.get(key) for key in ("kind", "setting", "repetition", "protocol", "stages")},
        "method": record["method"]["key"],
        "sha256": (record.get("encoder_file") or {}).get("sha256"),
    }))


def result_file(inputs: Inputs, record: Mapping[str, Any], name: str, settings: Mapping[str, Any]) -> Path:
    """Where a record is written.

    Returns:
        ``out``; or ``<checkpoint without suffix>.eval/<name>[_<data set>].json`` beside the checkpoint, for a random encoder
        and for a config file below ``work_dirs/eval/``. Where that file holds a result of other settings the name ends in
        ``_2``, ``_3``, ...

    Raises:
        ValueError: it cannot be written, or ``out`` holds something else.
    """
    if inputs.out is not None:
        path = Path(inputs.out)
        if path.exists() and (differing := _differing(path, settings)):
            raise ValueError(f"{path} exists and is not a result of these settings ({', '.join(differing[:5])}); choose "
                             "another file with --out, or delete it")
        check_writable(path.parent)
        return path
    file = Path(inputs.file)
    if inputs.file == RANDOM:
        encoder = "_".join(str(value) for value in record["setting"]["encoder"].values())
        file = RANDOM_FOLDER / _file_name(f"random_{encoder}_seed{inputs.seed}.pth")
    elif file.suffix == ".py":
        file = RANDOM_FOLDER / file.name
    stem = _file_name("_".join([name, *([dataset_name(record["data"])] if "data" in record else [])]))
    folder = file.with_suffix(".eval")
    names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
    path = next(path for path in (folder / f"{each}.json" for each in names)
                if not path.exists() or not _differing(path, settings))
    check_writable(folder)
    return path


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)


def _differing(path: Path, settings: Mapping[str, Any]) -> list[str]:
    """In which settings a file that exists differs from a result of these settings."""
    try:
        return differing_keys(settings_of(read_record(path).content), settings)
    except RecordError as error:
        return [str(error)]
