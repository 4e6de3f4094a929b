"""A report as one HTML file: nothing in it comes from anywhere else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from loco_det.report import DEFAULT_GALLERY
from loco_det.report.sections import make_report
from pretrain.engine.work_dir import check_writable, write_text


def write_report(
    directories: Sequence[str | Path],
    out: str | Path,
    gallery: int = DEFAULT_GALLERY,
    data_root: str | Path | None = None,
) -> Path:
    """Writes what lies below some folders as one HTML page, which needs no other file and no network.

    Args:
        directories: work directories of pretrainings and detection experiments, or folders above them; evaluations and
            analyses are found there, too. Runs may be unfinished or have failed.
        out: the file to write.
        gallery: validation images in the gallery of detections, drawn at random; 0 for none.
        data_root: folder of the detection data set; None for where it was when the detectors were trained.

    Returns:
        The file.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: there is nothing below them to report of, or the file cannot be written.
    """
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"{out} is a folder; name the file to write, such as {out / 'report.html'}")
    check_writable(out.parent)
    environment = Environment(loader=PackageLoader("loco_det.report"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html").render(
        report=make_report(directories, gallery, data_root), written=time.strftime("%Y-%m-%d %H:%M"),
        title=f"LoCo-Det: {', '.join(Path(directory).resolve().name for directory in directories)}")
    write_text(out, page.encode("utf-8", "backslashreplace").decode())  # names of files need not be UTF-8
    return out
