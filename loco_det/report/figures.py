"""The figures of a report: drawn by the sub-commands of tools/visualize.py, and put into the page as data."""

from __future__ import annotations

import base64
import io
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from PIL import Image

from loco_det.figures.commands import COMMANDS as DETECTION_COMMANDS
from loco_det.report.blocks import Figure, shown_path
from loco_det.report.commands import tool_command
from pretrain.figures.commands import COMMANDS as PRETRAINING_COMMANDS
from pretrain.figures.style import Drawing, save_figure

COMMANDS = {command.name: command for command in (*PRETRAINING_COMMANDS, *DETECTION_COMMANDS)}
PIXELS_PER_INCH = 120  # of the page: text of 8 pt is 13 pixels high
LARGEST_SVG = LARGEST_PNG = 400_000  # bytes; beyond, pixels, or pixels with losses, are smaller
MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg"}
TITLES = {
    "curves": "Training loss of every unit",
    "curves_accuracy": "Contrastive accuracy of every unit",
    "curves_kept_positive": "Positive pairs kept by every unit",
    "curves_kept_negative": "Negative pairs kept by every unit",
    "curves_learning_rate": "Learning rate",
    "curves_throughput": "Images per second",
    "units": "Learning rules: blocks, units, heads, and how far down each gradient flows",
    "complexity_stages": "FLOPs and memory of every stage",
    "complexity_memory": "Memory of a step that local learning saves",
    "ap": "AP of every method, with its deviation over the splits",
    "embed": "t-SNE of the encoders' features",
    "probes": "Linear accuracy by depth",
    "spectrum": "Singular values of the features",
    "kept": "Pairs kept by subsampling",
    "detections": "Ground truth and predictions",
}


class _Parser(ArgumentParser):
    """One that raises where others end the process."""

    def error(self, message: str) -> NoReturn:
        """See :class:`argparse.ArgumentParser`."""
        raise ValueError(message)


def draw(command: str, arguments: Sequence[str | Path]) -> list[Figure]:
    """The figures of a sub-command of ``tools/visualize.py``.

    Args:
        command: its name.
        arguments: what would follow the name on a command line; in the command that is shown, paths are as seen from the
            project's root.

    Raises:
        ValueError: there is no such sub-command, or what it is to draw is missing or damaged.
    """
    if command not in COMMANDS:
        raise ValueError(f"tools/visualize.py has no sub-command {command!r}; it has {', '.join(COMMANDS)}")
    parser = _Parser(prog=f"tools/visualize.py {command}")
    COMMANDS[command].add_arguments(parser)
    drawings = COMMANDS[command].draw(parser.parse_args(list(map(str, arguments))))
    shown = [shown_path(part) if isinstance(part, Path) else part for part in arguments]
    line = tool_command("visualize", command, *shown)
    return [embedded(drawing, TITLES.get(name) or name.removeprefix("curves_").replace("_", " ").capitalize(), line)
            for name, drawing in drawings.items()]


def embedded(drawing: Drawing, title: str, command: str | None = None) -> Figure:
    """A drawing as an image within the page: as vectors, or as pixels where it shows images or vectors take more room."""
    with tempfile.TemporaryDirectory() as folder:
        files = {file.suffix: file.read_bytes() for file in save_figure(drawing.figure, Path(folder) / "figure")}
    photographs = any(axes.images for axes in drawing.figure.axes)
    suffix = ".png" if photographs or len(files[".svg"]) > LARGEST_SVG else ".svg"
    if len(files[suffix]) > LARGEST_PNG:
        suffix = ".jpg"
        files[suffix] = _jpeg(files[".png"])
    source = f"data:{MEDIA_TYPES[suffix]};base64,{base64.b64encode(files[suffix]).decode()}"
    return Figure(title, drawing.caption, source, round(drawing.figure.get_size_inches()[0] * PIXELS_PER_INCH), command)


def _jpeg(png: bytes) -> bytes:
    """The same pixels for a few percent of the bytes, lettering at full resolution."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "JPEG", quality=90, subsampling=0, optimize=True)
    return buffer.getvalue()
