"""What a report shows of pretrainings: analyses, learning rules, curves, and what encoders cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from loco_det.report import tables
from loco_det.report.blocks import Block, Figure, Missing, Section, shown_path
from loco_det.report.figures import draw, embedded
from loco_det.report.runs import Inputs, Run, options_text
from pretrain.results.method import shown_method
from pretrain.results.store import ANALYSIS, PRETRAINING, canonical
from pretrain.results.training_log import has_training_log

VIEWS = 2  # of every image in a step
MEMORY_TITLE = "Memory of a step that local learning saves"


def analyses(section: Section, inputs: Inputs) -> None:
    """Figures of what was analysed."""
    found = {what: [record.path for record in inputs.evaluations
                    if record.kind == ANALYSIS and record.content["protocol"]["name"] == what]
             for what in ("probes", "spectrum", "kept")}
    # Pairs that were kept are in the logs of pretrainings, too.
    found["kept"] += [run.path for run in _logged(inputs) if shown_method(run.record.method).subsampled]
    for what, paths in found.items():
        if paths:
            section.add(what.capitalize(), draw, what, paths)
        else:
            section.add_missing(what.capitalize(), f"there are no results of tools/analyze.py --what {what}")


def _logged(inputs: Inputs) -> list[Run]:
    return [run for run in inputs.of_kind(PRETRAINING) if has_training_log(run.path)]


def pretraining(section: Section, inputs: Inputs) -> None:
    """Learning rules and training curves."""
    runs = inputs.of_kind(PRETRAINING)
    if not runs:
        section.add_missing("Learning rules and curves", "no pretraining was found; run tools/pretrain.py first")
        return
    distinct = {canonical([run.record.method["key"], run.record.setting["encoder"]]): run for run in reversed(runs)}
    section.add("Learning rules", _rules, list(distinct.values())[::-1])
    if logged := _logged(inputs):
        section.add("Curves", draw, "curves", [run.path for run in logged])
    else:
        section.add_missing("Curves", "no pretraining has logged anything yet")


def _rules(runs: Iterable[Run]) -> Iterator[Block]:
    """The figure of all rules that can be laid out, and why the others cannot."""
    from pretrain.figures.unit_layout import read_model, rule_layout

    drawn = []
    for run in runs:
        try:
            rule_layout(read_model(run.path))
            drawn.append(run.path)
        except Exception as error:  # such as a rule that is not registered here
            yield Missing(f"Learning rule of {shown_path(run.path)}", " ".join(str(error).split()))
    if drawn:
        yield from draw("units", drawn)


def complexity(section: Section, inputs: Inputs) -> None:
    """Costs of every encoder at the size that it was pretrained on."""
    encoders = tables.encoders_of(inputs)
    if not encoders:
        section.add_missing("Complexity", "no pretraining was found, so no encoder is known")
    for encoder, size in encoders:
        name = options_text(encoder)
        sizes = Counter(run.record.setting["batch_size"] for run in inputs.of_kind(PRETRAINING)
                        if run.record.setting["encoder"] == encoder)
        section.add(f"Costs of {name}", tables.complexity_table, encoder, size)
        section.add(f"Costs of {name}, drawn", _cost_figures, encoder, size, sizes.most_common(1)[0][0])


def _cost_figures(encoder: Any, size: int, images: int) -> Iterator[Figure]:
    """Costs of stages, and of a step on ``images``, of each of which the tools count both views."""
    name, views = options_text(encoder), VIEWS * images
    if set(encoder) == {"type"}:
        figures = draw("complexity", [name, "--input-size", str(size), "--batch-size", str(views)])
    else:  # the command line takes no options of encoders
        from pretrain.figures.complexity import draw_memory_savings, draw_stage_costs

        figures = [embedded(draw_stage_costs({name: encoder}, size), "FLOPs and memory of every stage"),
                   embedded(draw_memory_savings({name: encoder}, views, size), MEMORY_TITLE)]
    for figure in figures:
        if figure.title == MEMORY_TITLE:
            figure = replace(figure, caption=f"{figure.caption} That is a step of the pretraining: "
                                                     f"{images} images, {views} views.")
        yield figure
