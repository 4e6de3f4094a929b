"""Command line arguments that the tools for readouts share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.cli import Overrides, encoder_spec

if TYPE_CHECKING:
    from pretrain.readout.evaluate import Readout
    from pretrain.readout.session import Method

SOURCE_NAMES = "folder, file_list, imagenet, cifar10, cifar100, stl10, fashion_mnist, webdataset, coco_objects"
CHECKPOINT_HELP = "exported backbone, pretraining checkpoint, bare state dict, or the word random"
# Which options each analysis has, beside those that say which encoder and images.
ANALYSIS_OPTIONS = {
    "probes": ("protocol", "epochs", "train_split", "test_split", "limit", "batch_size"),
    "spectrum": ("points", "split", "limit", "batch_size"),
    "kept": (),
    "memory": ("batch_size",),
}


def add_readout_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what says which encoder is read out on which data."""
    parser.add_argument("file", metavar="CHECKPOINT", help=CHECKPOINT_HELP)
    _add_common_arguments(parser)
    parser.add_argument("--train-split", metavar="NAME", help="default: the source's own, train for a folder")
    parser.add_argument("--test-split", metavar="NAME", help="default: the source's own, val or test for a folder")
    parser.add_argument("--limit", type=int, metavar="N", help="use a class-balanced subset of N training images")
    parser.add_argument("--stages", choices=("all", "last"), default="all", help="default: all")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="of all processes together (default: 256)")
    parser.add_argument("--resume", action="store_true", help="continue what was interrupted; a finished result is kept, "
                        "which otherwise is computed anew")


def add_analysis_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what says which encoders are looked into, how, and on which images."""
    parser.add_argument("files", nargs="+", metavar="CHECKPOINT", help=f"{CHECKPOINT_HELP}; for memory also a config file")
    parser.add_argument("--what", choices=tuple(ANALYSIS_OPTIONS), required=True,
                        help="probes: linear classifiers after every block; spectrum: of the covariance of features; kept: "
                             "shares of pairs over the pretraining; memory: of a pretraining step")
    _add_common_arguments(parser)
    parser.add_argument("--protocol", choices=("adam", "cached"), help="of probes, see docs/readout.md (default: adam)")
    parser.add_argument("--epochs", type=int, metavar="N", help="of probes with adam (default: 200)")
    parser.add_argument("--train-split", metavar="NAME", help="of probes (default: the source's own, train for a folder)")
    parser.add_argument("--test-split", metavar="NAME", help="of probes (default: the source's, val or test for a folder)")
    parser.add_argument("--split", metavar="NAME", help="of spectrum (default: the source's test split, or all images)")
    parser.add_argument("--points", choices=("stages", "blocks"), help="where spectrum looks (default: stages)")
    parser.add_argument("--limit", type=int, metavar="N", help="use N training images (probes) or N images (spectrum)")
    parser.add_argument("--batch-size", type=int, metavar="N",
                        help="images at once (default: 256; for memory the pretraining's)")
    parser.add_argument("--resume", action="store_true", help="keep a finished result, which otherwise is computed anew")


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    add_input_arguments(parser)
    parser.add_argument("--autocast", choices=("bfloat16",), help="run the encoder in that type (default: float32)")
    parser.add_argument("--out", metavar="FILE", help="the result (default: CHECKPOINT.readout/<kind>_<data>.json)")


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what says which encoder a file holds and where images come from; for :func:`encoder_of` and :func:`source_of`."""
    parser.add_argument("--encoder", metavar="NAME",
                        help="encoder of a file without a record and of random: resnet50, ..., timm/NAME")
    parser.add_argument("--encoder-options", nargs="+", action=Overrides, default={}, metavar="k=v",
                        help="its options, such as stem=small")
    parser.add_argument("--data", default="folder", metavar="SOURCE", help=f"{SOURCE_NAMES} (default: folder)")
    parser.add_argument("--data-options", nargs="+", action=Overrides, default={}, metavar="k=v",
                        help="its options (docs/data.md), such as file=lists/{split}.txt of file_list")
    parser.add_argument("--data-root", default="data", metavar="DIR", help="where the source reads from (default: data)")
    parser.add_argument("--image-size", type=int, metavar="PIXELS",
                        help="side of the views (default: that of the pretraining's where the checkpoint tells, or 224)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that load images (default: by processors)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--device", default="auto", help="default: cuda where there is one, otherwise cpu")


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
    from pretrain.readout.evaluate import read_out

    method = make_method()
    readout = _readout(args, args.file, train_split=args.train_split, test_split=args.test_split, stages=args.stages)
    return _run_in_processes(lambda: read_out(readout, method))


def run_analyses(args: argparse.Namespace) -> str:
    """Runs what the arguments of :func:`add_analysis_arguments` ask for, in one of the processes of torchrun or alone.

    Returns:
        ``{"what": ..., "runs": [record, ...]}`` as JSON; nothing in other processes than the first.

    Raises:
        ValueError: an option is of another analysis, several checkpoints are to have one result, or a checkpoint is missing.
    """
    from pretrain.readout.encoders import RANDOM, check_exists

    for name in _given(args, *{name for names in ANALYSIS_OPTIONS.values() for name in names}):
        if name not in ANALYSIS_OPTIONS[args.what]:
            raise ValueError(f"--{name.replace('_', '-')} is no option of --what {args.what}; leave it out")
    if args.out is not None and len(args.files) > 1:
        raise ValueError(f"--out names one file, but each of the {len(args.files)} checkpoints has a result of its own; "
                         "leave it out, or analyze one checkpoint at a time")
    for file in args.files:
        if file != RANDOM:
            check_exists(Path(file))  # before hours of work on the others
    analyze = _analysis(args)
    return _run_in_processes(lambda: {"what": args.what, "runs": [analyze(file) for file in args.files]})


def _analysis(args: argparse.Namespace) -> Callable[[str], dict[str, Any]]:
    """What the arguments ask for, as a function of the checkpoint."""
    if args.what == "probes":
        from pretrain.readout.analysis import analyze_probes

        method, splits = _probe(args), _given(args, "train_split", "test_split")
        return lambda file: analyze_probes(_readout(args, file, **splits), method)
    if args.what == "spectrum":
        from pretrain.readout.analysis import analyze_spectrum

        options = _given(args, "points", "batch_size")
        return lambda file: analyze_spectrum(_readout(args, file, test_split=args.split), **options)
    from pretrain.readout.training_analysis import analyze_kept, analyze_memory

    if args.what == "kept":
        return lambda file: analyze_kept(file, args.out, args.resume)
    return lambda file: analyze_memory(file, args.batch_size, args.image_size, args.out, args.resume)


def _probe(args: argparse.Namespace) -> Method:
    from pretrain.readout.adam_probe import AdamLinearProbe
    from pretrain.readout.cached_probe import CachedLinearProbe

    options = _given(args, "batch_size", "epochs")
    if args.protocol != "cached":
        return AdamLinearProbe(**options)
    if "epochs" in options:
        raise ValueError("--epochs is no option of the protocol 'cached'; leave it out")
    return CachedLinearProbe(**options)


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The arguments that the user gave; the others are left to the defaults of what takes them."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _run_in_processes(compute: Callable[[], Any]) -> str:
    from pretrain import distributed

    distributed.start_processes(distributed.find_launcher())
    try:
        result = compute()
        return json.dumps(result) if distributed.rank() == 0 else ""
    finally:
        distributed.stop_processes()


def _readout(args: argparse.Namespace, file: str, **options: Any) -> Readout:
    from pretrain.readout.evaluate import Readout

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
