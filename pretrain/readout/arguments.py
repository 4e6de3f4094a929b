"""Command line arguments that the tools for readouts share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from pretrain.cli import Overrides, encoder_spec

if TYPE_CHECKING:
    from pretrain.readout.evaluate import Readout
    from pretrain.readout.session import Method

SOURCE_NAMES = "folder, file_list, imagenet, cifar10, cifar100, stl10, fashion_mnist, webdataset"


def add_readout_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what says which encoder is read out on which data."""
    parser.add_argument("file", metavar="CHECKPOINT",
                        help="exported backbone, pretraining checkpoint, bare state dict, or the word random")
    parser.add_argument("--encoder", metavar="NAME",
                        help="encoder of a file without a record and of random: resnet50, ..., timm/NAME")
    parser.add_argument("--encoder-options", nargs="+", action=Overrides, default={}, metavar="k=v",
                        help="its options, such as stem=small")
    parser.add_argument("--data", default="folder", metavar="SOURCE", help=f"{SOURCE_NAMES} (default: folder)")
    parser.add_argument("--data-options", nargs="+", action=Overrides, default={}, metavar="k=v",
                        help="its options (docs/data.md), such as file=lists/{split}.txt of file_list")
    parser.add_argument("--data-root", default="data", metavar="DIR", help="where the source reads from (default: data)")
    parser.add_argument("--train-split", metavar="NAME", help="default: the source's own, train for a folder")
    parser.add_argument("--test-split", metavar="NAME", help="default: the source's own, val or test for a folder")
    parser.add_argument("--limit", type=int, metavar="N", help="use a class-balanced subset of N training images")
    parser.add_argument("--stages", choices=("all", "last"), default="all", help="default: all")
    parser.add_argument("--image-size", type=int, metavar="PIXELS",
                        help="side of the views (default: that of the pretraining's where the checkpoint tells, or 224)")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="of all processes together (default: 256)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that load images (default: by processors)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--device", default="auto", help="default: cuda where there is one, otherwise cpu")
    parser.add_argument("--autocast", choices=("bfloat16",), help="run the encoder in that type (default: float32)")
    parser.add_argument("--out", metavar="FILE", help="the result (default: CHECKPOINT.readout/<kind>_<data>.json)")
    parser.add_argument("--resume", action="store_true", help="continue what was interrupted; a finished result is kept, "
                        "which otherwise is computed anew")


def run_readout(args: argparse.Namespace, make_method: Callable[[], Method]) -> str:
    """Runs what the arguments ask for, in one of the processes of torchrun or alone.

    Returns:
        The result as JSON; nothing in other processes than the first.
    """
    from pretrain import distributed
    from pretrain.readout.evaluate import read_out

    method = make_method()
    readout = _readout(args)
    distributed.start_processes(distributed.find_launcher())
    try:
        record = read_out(readout, method)
        return json.dumps(record) if distributed.rank() == 0 else ""
    finally:
        distributed.stop_processes()


def _readout(args: argparse.Namespace) -> Readout:
    from pretrain.readout.evaluate import Readout

    encoder = None if args.encoder is None else encoder_spec(args.encoder)
    if args.encoder_options:
        if encoder is None:
            raise ValueError("--encoder-options are options of --encoder, which is not given")
        encoder = {**({"type": encoder} if isinstance(encoder, str) else encoder), **args.encoder_options}
    return Readout(
        file=args.file,
        source={"type": args.data, **args.data_options} if args.data_options else args.data,
        data_root=args.data_root,
        encoder=encoder,
        train_split=args.train_split,
        test_split=args.test_split,
        limit=args.limit,
        stages=args.stages,
        image_size=args.image_size,
        workers=args.workers,
        seed=args.seed,
        device=args.device,
        out=args.out,
        resume=args.resume,
        autocast=args.autocast,
    )
