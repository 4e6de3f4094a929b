"""What a report shows of pretrainings: readouts, analyses, learning rules, curves, and what encoders cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from loco_det.html_report import tables
from loco_det.html_report.blocks import Block, Figure, Missing, Section, shown_path
from loco_det.html_report.figures import draw, embedded
from loco_det.html_report.material import Material
from loco_det.html_report.records import ANALYSIS
from loco_det.html_report.runs import PRETRAINING, Run
from pretrain.training_log import read_training_log

VIEWS = 2  # of every image in a step
MEMORY_TITLE = "Memory of a step that local learning saves"


def readouts(section: Section, material: Material) -> None:
    """Accuracies in the form of the papers' tables."""
    for problem in material.damaged:
        section.add_missing("A readout or analysis", problem)
    # What is damaged must not cost the tables of the others.
    paths = [record.file for record in material.readouts] if material.damaged else material.directories
    section.add("Accuracy of readouts", tables.accuracy_tables, paths)
    if any(record.is_decoupled for record in material.readouts):
        section.add("Accuracy of decoupled pretraining", tables.subsampling_tables, paths)


def analyses(section: Section, material: Material) -> None:
    """Figures of what was analysed."""
    for what in ("probes", "spectrum"):
        section.add(what.capitalize(), draw, what, list(material.directories))
    # Pairs that were kept are in the logs of pretrainings, too.
    subsampled = [run.path for run in _logged(material.of_kind(PRETRAINING)) if _threshold(run) is not None]
    if subsampled or any(record.content["kind"] == f"{ANALYSIS}kept" for record in material.analyses):
        section.add("Kept", draw, "kept", subsampled or list(material.directories))
    else:
        section.add_missing("Kept", "no pretraining here left pairs out and logged it, and there are no results of "
                            "tools/analyze.py --what kept")


def _threshold(run: Run) -> float | None:
    """The similarity below which a pretraining left pairs out; None where it took all."""
    return (run.config.get("model", {}).get("subsampling") or {}).get("threshold")


def _logged(runs: Iterable[Run]) -> list[Run]:
    """Those of pretrainings that have logged something."""
    return [run for run in runs if _has_log(run.path)]


def _has_log(folder: Path) -> bool:
    try:
        return bool(read_training_log(folder).records)
    except Exception:  # whatever a damaged log may lead to
        return False


def pretraining(section: Section, material: Material) -> None:
    """Learning rules and training curves."""
    runs = material.of_kind(PRETRAINING)
    if not runs:
        section.add_missing("Learning rules and curves", "no pretraining was found; run tools/pretrain.py first")
        return
    section.add("Learning rules", _rules, _distinct(runs))
    if logged := _logged(runs):
        section.add("Curves", draw, "curves", [run.path for run in logged])
    else:
        section.add_missing("Curves", "no pretraining has logged anything yet")


def _distinct(runs: Iterable[Run]) -> list[Run]:
    """The first run of every learning rule on every encoder."""
    seen = {}
    for run in runs:
        model = run.config.get("model")
        if model is not None:
            key = json.dumps([model["encoder"], model["rule"], model.get("decoder")], sort_keys=True)
            seen.setdefault(key, run)
    return list(seen.values())


def _rules(runs: Iterable[Run]) -> Iterator[Block]:
    """The figure of all rules that can be laid out, and why the others cannot."""
    from pretrain.unit_layout import read_model, rule_layout

    drawn = []
    for run in runs:
        try:
            rule_layout(read_model(run.path))
            drawn.append(run.path)
        except Exception as error:  # whatever a damaged record may lead to
            yield Missing(f"Learning rule of {shown_path(run.path)}", " ".join(str(error).split()))
    if drawn:
        yield from draw("units", drawn)


def complexity(section: Section, material: Material) -> None:
    """Costs of every encoder at the size that it was pretrained on."""
    encoders = tables.encoders_of(run for run in material.runs if run.config)
    if not encoders:
        section.add_missing("Complexity", "no pretraining was found, so that no encoder is known")
    for encoder, size in encoders:
        name = tables.spelled_options(encoder)
        section.add(f"Costs of {name}", tables.complexity_table, encoder, size)
        section.add(f"Costs of {name}, drawn", _cost_figures, encoder, size, _usual_batch(material, encoder))


def _usual_batch(material: Material, encoder: Any) -> int:
    """Images of a step of most pretrainings of an encoder."""
    sizes = Counter(run.config["train_dataloader"]["batch_size"] for run in material.of_kind(PRETRAINING)
                    if run.config["model"]["encoder"] == encoder)
    return sizes.most_common(1)[0][0]


def _cost_figures(encoder: Any, size: int, images: int) -> Iterator[Figure]:
    """Costs of stages, and of a step on ``images``, of each of which the tools count both views."""
    name, views = tables.spelled_options(encoder), VIEWS * images
    options = {"type": encoder} if isinstance(encoder, str) else dict(encoder)
    if set(options) == {"type"}:
        figures = draw("complexity", [name, "--input-size", str(size), "--batch-size", str(views)])
    else:  # the command line cannot spell options
        from pretrain.figures.complexity import draw_memory_savings, draw_stage_costs

        figures = [embedded(draw_stage_costs({name: encoder}, size), "FLOPs and memory of every stage"),
                   embedded(draw_memory_savings({name: encoder}, views, size), MEMORY_TITLE)]
    for figure in figures:
        if figure.title == MEMORY_TITLE:
            figure = replace(figure, caption=f"{figure.caption} That is a step of the pretraining: "
                                                     f"{images} images, {views} views.")
        yield figure
