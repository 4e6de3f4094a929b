"""The sub-commands of tools/visualize.py that show pretraining.

Parsing must be quick, so the modules that draw, and torch with them, are imported when a command is carried out.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretrain.figures.style import Drawing


@dataclass(frozen=True)
class Command:
    """A sub-command that draws.

    Attributes:
        name: what it is called by.
        help: one line for the list of commands.
        add_arguments: adds what it takes to its parser.
        draw: what it draws for parsed arguments: name of the files, without ending -> drawing.
    """

    name: str
    help: str
    add_arguments: Callable[[ArgumentParser], None]
    draw: Callable[[Namespace], Mapping[str, Drawing]]


def _curves_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("work_dirs", nargs="+", metavar="WORK_DIR",
                        help="of tools/pretrain.py, finished or not, or folders above some")


def _curves(args: Namespace) -> dict[str, Drawing]:
    from pretrain.figures.curves import draw_curves

    return draw_curves(args.work_dirs)


def _units_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="CONFIG|WORK_DIR|CHECKPOINT",
                        help="pretraining configs, work directories, checkpoints or exported backbones, side by side")


def _units(args: Namespace) -> dict[str, Drawing]:
    from pretrain.figures.unit_layout import read_model
    from pretrain.figures.units import draw_units

    return {"units": draw_units([read_model(path) for path in args.models])}


def _complexity_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("encoders", nargs="+", metavar="ENCODER", help="registered encoders, or timm/NAME")
    parser.add_argument("--input-size", type=int, default=224, metavar="PX", help="side of the image (default: 224)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N",
                        help="images of a step, views counted apart (default: 64)")


def _complexity(args: Namespace) -> dict[str, Drawing]:
    from pretrain.engine.cli import encoder_spec
    from pretrain.figures.complexity import draw_memory_savings, draw_stage_costs

    encoders = {name: encoder_spec(name) for name in args.encoders}
    return {
        "complexity_stages": draw_stage_costs(encoders, args.input_size),
        "complexity_memory": draw_memory_savings(encoders, args.batch_size, args.input_size),
    }


def _embed_arguments(parser: ArgumentParser) -> None:
    from pretrain.eval.arguments import CHECKPOINT_HELP, add_input_arguments

    parser.add_argument("files", nargs="+", metavar="CHECKPOINT", help=f"{CHECKPOINT_HELP}: a panel each")
    parser.add_argument("--stage", metavar="NAME", help="whose features are embedded, such as res4 (default: the last)")
    parser.add_argument("--split", metavar="NAME", help="of the images (default: the one that evaluations test on)")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="default: the first ten by name")
    parser.add_argument("--num", type=int, default=500, metavar="N",
                        help="images, as many of each class as can be (default: 500)")
    add_input_arguments(parser)


def _embed(args: Namespace) -> dict[str, Drawing]:
    from pretrain.eval.arguments import encoder_of, source_of
    from pretrain.figures.embedding import ImageChoice, draw_embedding

    choice = ImageChoice(source_of(args), args.data_root, args.split, args.classes, args.num, args.seed)
    return {"embed": draw_embedding(
        args.files, choice, stage=args.stage, encoder=encoder_of(args), image_size=args.image_size, device=args.device,
        workers=args.workers,
    )}


def _analysis_arguments(what: str) -> Callable[[ArgumentParser], None]:
    def add(parser: ArgumentParser) -> None:
        logs = "work directories of tools/pretrain.py, " if what == "kept" else ""
        parser.add_argument("paths", nargs="+", metavar="PATH",
                            help=f"{logs}files of tools/analyze.py --what {what}, or folders above some")

    return add


def _probes(args: Namespace) -> dict[str, Drawing]:
    from pretrain.figures.analyses import draw_probes

    return {"probes": draw_probes(args.paths)}


def _spectrum(args: Namespace) -> dict[str, Drawing]:
    from pretrain.figures.analyses import draw_spectrum

    return {"spectrum": draw_spectrum(args.paths)}


def _kept(args: Namespace) -> dict[str, Drawing]:
    from pretrain.figures.analyses import draw_kept

    return {"kept": draw_kept(args.paths)}


COMMANDS = (
    Command("curves", "losses and metrics of every unit, learning rate and images/s over epochs",
            _curves_arguments, _curves),
    Command("units", "the learning rule: blocks, units, heads, and how far down each gradient flows",
            _units_arguments, _units),
    Command("complexity", "FLOPs and memory of every stage, and what local learning saves of a step's memory",
            _complexity_arguments, _complexity),
    Command("embed", "t-SNE of an encoder's features, with kNN accuracy and silhouette of the classes", _embed_arguments,
            _embed),
    Command("probes", "accuracy of linear probes by depth", _analysis_arguments("probes"), _probes),
    Command("spectrum", "singular values of the features' covariance, and effective rank", _analysis_arguments("spectrum"),
            _spectrum),
    Command("kept", "pairs that subsampling kept, by unit over epochs", _analysis_arguments("kept"), _kept),
)
