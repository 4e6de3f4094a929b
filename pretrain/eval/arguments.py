"""Command line arguments that the tools for evaluations share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.engine.cli import Overrides, encoder_spec, note
from pretrain.errors import RunFailedError

if TYPE_CHECKING:
    from pretrain.eval.evaluate import Readout
    from pretrain.eval.session import Method

SOURCE_NAMES = "folder, file_list, imagenet, cifar10, cifar100, stl10, fashion_mnist, webdataset, coco_objects"
CHECKPOINT_HELP = "exported backbone, pretraining checkpoint, bare state dict, or the word random"
INPUT_DEFAULTS = {"encoder_options": {}, "data": "folder", "data_options": {}, "data_root": "data", "seed": 0,
                  "device": "auto"}
INPUT_OPTIONS = ("encoder", "image_size", "workers", *INPUT_DEFAULTS)
# Which options each analysis has, beside --out and --resume.
ANALYSIS_OPTIONS = {
    "probes": (*INPUT_OPTIONS, "autocast", "limit", "batch_size", "protocol", "epochs", "train_split", "test_split"),
    "spectrum": (*INPUT_OPTIONS, "autocast", "limit", "batch_size", "points", "split"),
    "kept": (),
    "memory": ("image_size", "autocast", "batch_size"),
}


def add_readout_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what says which encoder is evaluated on which data."""
    parser.add_argument("file", metavar="CHECKPOINT", help=CHECKPOINT_HELP)
    _add_common_arguments(parser)
    parser.add_argument("--train-split", metavar="NAME", help="default: the source's own, train for a folder")
    parser.add_argument("--test-split", metavar="NAME", help="default: the source's own, val or test for a folder")
    parser.add_argument("--limit", type=int, metavar="N", help="use a class-balanced subset of N training images")
    parser.add_argument("--stages", choices=("all", "last"), default="all", help="default: all")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N",
                        help="images run through the encoder at once and, where a protocol takes steps (paper, adam, "
                             "finetune), of a step, so that another number gives other accuracies; of all processes "
                             "together (default: 256)")
    parser.add_argument("--resume", action="store_true", help="continue what was interrupted; a finished result is kept, "
                        "which otherwise is computed again")


def add_analysis_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what says which encoders are looked into, how, and on which images."""
    parser.add_argument("files", nargs="+", metavar="CHECKPOINT",
                        help=f"{CHECKPOINT_HELP}, which after another file has its encoder and view size unless options say "
                             "otherwise; for memory also a config file")
    parser.add_argument("--what", choices=tuple(ANALYSIS_OPTIONS), required=True,
                        help="probes: linear classifiers after every block; spectrum: of the covariance of features, for "
                             "which images need no labels (but stl10 and the like their label files, to be opened); kept: "
                             "shares of pairs over the pretraining; memory: of a pretraining step")
    _add_common_arguments(parser, precision="float32; of memory the pretraining's")
    parser.add_argument("--protocol", choices=("adam", "cached"), help="of probes, see docs/readout.md (default: adam)")
    parser.add_argument("--epochs", type=int, metavar="N", help="of probes with adam (default: 200)")
    parser.add_argument("--train-split", metavar="NAME", help="of probes (default: the source's own, train for a folder)")
    parser.add_argument("--test-split", metavar="NAME", help="of probes (default: the source's, val or test for a folder)")
    parser.add_argument("--split", metavar="NAME", help="of spectrum (default: the source's test split, or all images)")
    parser.add_argument("--points", choices=("stages", "blocks"), help="where spectrum looks (default: stages)")
    parser.add_argument("--limit", type=int, metavar="N", help="use N training images (probes) or N images (spectrum)")
    parser.add_argument("--batch-size", type=int, metavar="N",
                        help="images run through the encoder at once and, of probes with adam, of a step of Adam, where "
                             "another number gives other accuracies (default: 256); of memory images of a pretraining step "
                             "(default: the pretraining's)")
    parser.add_argument("--resume", action="store_true", help="keep a finished result, which otherwise is computed again")


def _add_common_arguments(parser: argparse.ArgumentParser, precision: str = "float32") -> None:
    add_input_arguments(parser)
    parser.add_argument("--autocast", choices=("bfloat16",), help=f"run the encoder in that type (default: {precision})")
    parser.add_argument("--out", metavar="FILE", help="the result (default: CHECKPOINT.readout/<kind>_<data>....json)")


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what says which encoder a file holds and where images come from; for :func:`encoder_of` and :func:`source_of`."""
    parser.add_argument("--encoder", metavar="NAME",
                        help="encoder of a file without a record and of random: resnet50, ..., timm/NAME")
    parser.add_argument("--encoder-options", nargs="+", action=Overrides, default={}, metavar="k=v",
                        help="its options, such as stem=small")
    parser.add_argument("--data", default=INPUT_DEFAULTS["data"], metavar="SOURCE", help=f"{SOURCE_NAMES} (default: folder)")
    parser.add_argument("--data-options", nargs="+", action=Overrides, default={}, metavar="k=v",
                        help="its options (docs/data.md), such as file=lists/{split}.txt of file_list")
    parser.add_argument("--data-root", default=INPUT_DEFAULTS["data_root"], metavar="DIR",
                        help="where the source reads from (default: data)")
    parser.add_argument("--image-size", type=int, metavar="PIXELS",
                        help="side of the views (default: that of the pretraining's where it is recorded, or 224)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that load images (default: by processors)")
    parser.add_argument("--seed", type=int, default=INPUT_DEFAULTS["seed"], help="of everything random (default: 0)")
    parser.add_argument("--device", default=INPUT_DEFAULTS["device"], help="default: cuda where there is one, otherwise cpu")


def encoder_of(args: argparse.Namespace) -> str | dict[str, Any] | None:
    """The encoder that the arguments name, with its options; None where they name none.

    Raises:
        ValueError: there are options without an encoder.
    """
    encoder = None if args.encoder is None else encoder_spec(args.encoder)
    if not args.encoder_options:
        return encoder
    if encoder is None:
        raise ValueError("--encoder-options are options of --encoder, which is not given")
    return {**({"type": encoder} if isinstance(encoder, str) else encoder), **args.encoder_options}


def source_of(args: argparse.Namespace) -> str | dict[str, Any]:
    """The image source that the arguments name, with its options."""
    return {"type": args.data, **args.data_options} if args.data_options else args.data


def run_readout(args: argparse.Namespace, make_method: Callable[[], Method]) -> str:
    """Runs what the arguments of :func:`add_readout_arguments` ask for, in one of the processes of torchrun or alone.

    Returns:
        The result as JSON; nothing in other processes than the first.
    """
    from pretrain.eval.evaluate import read_out

    method = make_method()
    readout = _readout(args, args.file, train_split=args.train_split, test_split=args.test_split, stages=args.stages)
    return _run_in_processes(lambda: read_out(readout, method))


def run_analyses(args: argparse.Namespace) -> str:
    """Runs what the arguments of :func:`add_analysis_arguments` ask for, in one of the processes of torchrun or alone.

    Of several checkpoints, one that cannot be analysed is reported and left out.

    Returns:
        ``{"what": ..., "runs": [record, ...]}`` as JSON; nothing in other processes than the first.

    Raises:
        ValueError: an option is of another analysis, several checkpoints are to have one result, or a checkpoint is missing;
            or there is a single one, which does not fit.
        RunFailedError: of several checkpoints some could not be analysed; it holds the JSON of the others.
    """
    _check_analyses(args)
    return _run_in_processes(lambda: _analyze_all(args))


def _check_analyses(args: argparse.Namespace) -> None:
    """Refuses before any work what is mistyped or has no effect."""
    from pretrain.eval.encoders import RANDOM, check_exists
    from pretrain.eval.session import check_above_zero

    for name in dict.fromkeys(name for names in ANALYSIS_OPTIONS.values() for name in names):
        if name not in ANALYSIS_OPTIONS[args.what] and getattr(args, name) not in (None, INPUT_DEFAULTS.get(name)):
            raise ValueError(f"--{name.replace('_', '-')} is not an option of --what {args.what}; leave it out")
    check_above_zero(**_given(args, "batch_size", "image_size"))
    if args.what in ("probes", "spectrum"):
        _readout(args, args.files[0])  # which checks its own options
    if args.out is not None and len(args.files) > 1:
        raise ValueError(f"--out names one file, but each of the {len(args.files)} checkpoints has a result of its own; "
                         "leave it out, or analyze one checkpoint at a time")
    for file in args.files:
        if file.endswith(".py") and args.what != "memory":
            raise ValueError(f"{file} is a config, which --what memory alone takes; pass a checkpoint that was trained with "
                             "it, an epoch_*.pth")
        if file != RANDOM:
            check_exists(Path(file))


def _analyze_all(args: argparse.Namespace) -> dict[str, Any]:
    from pretrain.distributed import comm

    analyze = _analysis(args)
    runs, failed = [], []
    for file in args.files:
        try:
            runs.append(analyze(file, runs[0] if runs else None))
        except (ValueError, OSError, RunFailedError) as error:
            if len(args.files) == 1:
                raise
            note(f"{file} is left out: {' '.join(str(error).split())}")
            failed.append(file)
            if comm.world_size() > 1:  # others may not have failed, and wait for this process
                break
    result = {"what": args.what, "runs": runs}
    if failed:
        raise RunFailedError(f"{len(runs)} of {len(args.files)} checkpoints were analyzed, but not {', '.join(failed)}",
                             output=json.dumps(result) if comm.rank() == 0 else None)
    return result


def _analysis(args: argparse.Namespace) -> Callable[[str, Mapping[str, Any] | None], dict[str, Any]]:
    """What the arguments ask for, as a function of the checkpoint and the first record before it."""
    if args.what in ("probes", "spectrum"):
        from pretrain.eval.analysis import analyze_probes, analyze_spectrum
        from pretrain.eval.evaluate import find_device

        find_device(args.device)  # the same for all checkpoints, as is the method
        if args.what == "probes":
            method, splits = _probe(args), _given(args, "train_split", "test_split")
            return lambda file, first: analyze_probes(_readout_like(args, file, first, **splits), method)
        options = _given(args, "points", "batch_size")
        return lambda file, first: analyze_spectrum(_readout_like(args, file, first, test_split=args.split), **options)
    from pretrain.eval.training_analysis import analyze_kept, analyze_memory

    if args.what == "kept":
        return lambda file, _: analyze_kept(file, args.out, args.resume)
    return lambda file, _: analyze_memory(file, args.batch_size, args.image_size, args.out, args.resume, args.autocast)


def _readout_like(args: argparse.Namespace, file: str, first: Mapping[str, Any] | None, **options: Any) -> Readout:
    """The readout of one of several files: ``random`` is as the first where the arguments leave it open.

    Args:
        args: of the tool.
        file: whose encoder is read out.
        first: the record of the first file; None for the first file itself.
        options: of :class:`~pretrain.eval.evaluate.Readout`.
    """
    from pretrain.engine.checkpoints import read_backbone
    from pretrain.eval.encoders import RANDOM

    readout = _readout(args, file, **options)
    if file == RANDOM:
        if first is None:
            return readout
        return replace(readout, encoder=readout.encoder or first["setting"]["encoder"],
                       image_size=readout.image_size or first["protocol"]["image_size"])
    if len(args.files) > 1 and readout.encoder is not None and read_backbone(file).encoder is not None:
        return replace(readout, encoder=None)  # --encoder is for the others
    return readout


def _probe(args: argparse.Namespace) -> Method:
    from pretrain.eval.adam_probe import AdamLinearProbe
    from pretrain.eval.logistic import CachedLinearProbe

    options = _given(args, "batch_size", "epochs")
    if args.protocol != "cached":
        return AdamLinearProbe(**options)
    if "epochs" in options:
        raise ValueError("--epochs is not an option of the protocol 'cached'; leave it out")
    return CachedLinearProbe(**options)


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The arguments that the user gave; the others are left to the defaults of what takes them."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _run_in_processes(compute: Callable[[], Any]) -> str:
    from pretrain.distributed import comm

    comm.start_processes(comm.find_launcher())
    try:
        result = compute()
        return json.dumps(result) if comm.rank() == 0 else ""
    finally:
        comm.stop_processes()


def _readout(args: argparse.Namespace, file: str, **options: Any) -> Readout:
    from pretrain.eval.evaluate import Readout

    return Readout(
        file=file,
        source=source_of(args),
        data_root=args.data_root,
        encoder=encoder_of(args),
        limit=args.limit,
        image_size=args.image_size,
        workers=args.workers,
        seed=args.seed,
        device=args.device,
        out=args.out,
        resume=args.resume,
        autocast=args.autocast,
        **options,
    )
