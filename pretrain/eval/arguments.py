"""Command line options that evaluations, analyses and figures share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.engine.cli import Overrides, check_exist, parse_encoder

# The supervised baseline of the LoCo paper's footnote 1: torchvision's ResNet50_Weights.IMAGENET1K_V1 under its older name.
SUPERVISED_FILE = "resnet50-19c8e357.pth"
CHECKPOINT_HELP = "exported backbone, pretraining checkpoint, bare state dict, or the word random"
SOURCE_NAMES = "folder, file_list, imagenet, cifar10, cifar100, stl10, fashion_mnist, webdataset, coco_objects"


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what says which encoder a file holds and where images come from; for :func:`encoder_of` and :func:`source_of`."""
    parser.add_argument("--encoder", metavar="NAME",
                        help="encoder of a file without a record and of random: resnet50, ..., timm/NAME")
    parser.add_argument("--encoder-options", nargs="+", action=Overrides, default={}, metavar="k=v",
                        help="its options, such as stem=small")
    parser.add_argument("--data", default="folder", metavar="SOURCE", help=f"{SOURCE_NAMES} (default: folder)")
    parser.add_argument("--data-options", nargs="+", action=Overrides, default={}, metavar="k=v",
                        help="its options (docs/pretraining.md), such as file=lists/{split}.txt of file_list")
    parser.add_argument("--data-root", default="data", metavar="DIR", help="where the source reads from (default: data)")
    parser.add_argument("--image-size", type=int, metavar="PIXELS",
                        help="side of the views (default: that of the pretraining's where it is recorded, or 224)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that load images (default: by processors)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--device", default="auto", help="default: cuda where there is one, otherwise cpu")


def add_autocast_argument(parser: argparse.ArgumentParser, default: str = "float32") -> None:
    """Adds the type that the encoder is run in."""
    parser.add_argument("--autocast", choices=("bfloat16",), help=f"run the encoder in that type (default: {default})")


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds where the result goes."""
    parser.add_argument("--out", metavar="FILE", help="the result (default: beside the checkpoint, below CHECKPOINT.eval/)")
    parser.add_argument("--resume", action="store_true",
                        help="continue what was interrupted; a finished result is kept, which otherwise is computed again")


def check_checkpoints(files: Sequence[str], encoder: object) -> None:
    """Refuses, before a tool imports what takes seconds, what cannot be loaded.

    Args:
        files: of encoders; ``"random"`` after another has the encoder of that.
        encoder: what ``--encoder`` names; None where it is not given.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: random weights are asked for, but no encoder.
    """
    check_random(files[0], encoder)
    for file in files:
        check_exist([file] if file != "random" else [], "checkpoint", where_to_get(file))


def check_random(file: str, encoder: object) -> None:
    """Refuses random weights of no encoder, with a ``ValueError``."""
    if file == "random" and encoder is None:
        raise ValueError("a random encoder needs --encoder NAME, such as --encoder resnet50")


def where_to_get(file: str | Path) -> str:
    """The end of a sentence that says that a file does not exist; empty for all but the supervised baseline."""
    name = Path(file).name
    return f"; get it from https://download.pytorch.org/models/{name}" if name == SUPERVISED_FILE else ""


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The options by their names, without those that were left to the defaults of the function that takes them."""
    return {name: value for name, value in vars(args).items() if value is not None and not name.endswith("_text")}


def encoder_of(args: argparse.Namespace) -> str | dict[str, Any] | None:
    """The encoder that the arguments name, with its options; None where they name none."""
    return named(None if args.encoder is None else parse_encoder(args.encoder), args.encoder_options)


def source_of(args: argparse.Namespace) -> str | dict[str, Any]:
    """The data set that the arguments name, with its options."""
    return named(args.data, args.data_options)


def named(config: str | dict[str, Any] | None, options: dict[str, Any]) -> str | dict[str, Any] | None:
    """A name or config ``dict(type=name, ...)`` with further options.

    Raises:
        ValueError: there are options of nothing.
    """
    if not options:
        return config
    if config is None:
        raise ValueError(f"--encoder-options {options} are options of --encoder, which is not given")
    return {**({"type": config} if isinstance(config, str) else config), **options}
