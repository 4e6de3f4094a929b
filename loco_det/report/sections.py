"""The sections of a report: tables of the table engine, and figures, from what lies below some folders."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loco_det.figures.ap_bars import draw_ap
from loco_det.figures.detections import draw_detections
from loco_det.report.runs import FINISHED, ReportInputs, Run, command_text, dataset_of, read_inputs
from pretrain.engine.checkpoints import checkpoint_files
from pretrain.engine.cli import note
from pretrain.figures.analyses import draw_probes, draw_spectrum
from pretrain.figures.curves import draw_curves
from pretrain.figures.style import Drawing, figure_style
from pretrain.figures.unit_text import read_model, rule_layout
from pretrain.figures.units import draw_units
from pretrain.results import table as engine
from pretrain.results.formats import PLAIN, headings, lines
from pretrain.results.store import ANALYSIS, DETECTION, PRETRAINING, canonical
from pretrain.results.training_log import has_training_log

PIXELS_PER_INCH = 120  # of the page: text of 8 pt is 13 pixels high
DPI = 200
WEAK_AP = 20.0  # points; of weaker detectors, which give all they find a low score, the best guesses are shown


@dataclass(frozen=True)
class TextTable:
    """A table of texts. ``folded`` ones show only their title at first; the first ``labels`` columns name a row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1
    notes: Sequence[str] = ()
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A drawing within the page: data URI, width in CSS pixels, and caption, which is its alternative text as well."""

    title: str
    caption: str
    source: str
    width: int


@dataclass
class Section:
    """A part of the report under a heading."""

    title: str
    tables: list[TextTable] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass
class Report:
    """A whole report.

    Attributes:
        inputs: what it is made of.
        sections: in order.
        missing: title and reason of every part that the report would have.
    """

    inputs: ReportInputs
    sections: list[Section] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)

    @property
    def anchors(self) -> Mapping[str, str]:
        """Title of every section that holds something, by the name that links to it have."""
        return {f"section-{place}": section.title for place, section in enumerate(self.sections)
                if section.tables or section.pictures}

    def add_section(self, title: str, *parts: tuple[Callable[..., Iterable[TextTable | Picture]], Any]) -> None:
        """Adds a section of what functions yield; where one raises, what it would have added is missing, and why."""
        section = Section(title)
        self.sections.append(section)
        for make, *args in parts:
            try:
                for part in make(self, *args):
                    (section.tables if isinstance(part, TextTable) else section.pictures).append(part)
            except Exception as error:  # no part may cost its reader the others
                name = make.__name__.strip("_").replace("_", " ")
                if not isinstance(error, ValueError | OSError):
                    note(f"warning: {name} are missing in the report: {type(error).__name__}: {error}")
                self.missing.append((name, " ".join(str(error).split()) or type(error).__name__))


def make_report(directories: Sequence[str | Path], gallery: int, data_root: str | Path | None = None) -> Report:
    """Everything that a report shows; arguments and errors as of :func:`loco_det.report.render.write_report`."""
    report = Report(read_inputs(directories))
    report.missing += [("a record", issue) for issue in report.inputs.issues]
    report.missing += [(str(run.path), f"{run.state}, {run.progress}")
                       for run in report.inputs.runs if run.state != FINISHED]
    report.add_section("What was run", (runs,), (evaluations,))
    report.add_section("Results", (results,), (ap_bars,))
    report.add_section("Analyses", (analyses,))
    report.add_section("Pretraining", (learning_rules,), (training_curves,))
    report.add_section("Detections", (detections, gallery, data_root))
    return report


def runs(report: Report) -> Iterator[TextTable]:
    """Every run in a line."""
    found = report.inputs.runs
    if not found:
        raise ValueError("no work directory of a pretraining or a detection experiment (run.json) was found")
    header = ["Run", "Kind", "Method", "Data", "State", "Progress", "Duration (min)", "Revision", "Machine"]
    yield TextTable("Runs", header, [
        [str(run.path), run.record.kind, run.method, dataset_of(run.record), run.state, run.progress, _minutes(run.seconds),
         _revision(run.record.content), run.record.content.get("machine", "")] for run in found])


def evaluations(report: Report) -> Iterator[TextTable]:
    """Every evaluation and analysis in a line."""
    header = ["Record", "Protocol", "Method", "Data", "Duration (min)", "Revision", "Command"]
    rows = [[str(record.path), record.content["protocol"]["name"], report.inputs.labels[record.method["key"]],
             dataset_of(record), _minutes(record.content.get("duration_s")), _revision(record.content),
             command_text(record.content.get("argv") or [])] for record in report.inputs.evaluations]
    if rows:
        yield TextTable("Evaluations and analyses", header, rows, folded=True)


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.1f}"


def _revision(content: Mapping[str, Any]) -> str:
    return str(content.get("git_revision") or "")[:10]


def results(report: Report) -> Iterator[TextTable]:
    """The general table, each of the papers' that has results, accuracy after every stage, and AP by class and split."""
    inputs = report.inputs
    if inputs.frame.empty or (inputs.frame["kind"] == PRETRAINING).all():
        raise ValueError("there are no results of detectors or evaluations yet; run tools/train_det.py or an evaluation "
                         "first")
    found = engine.Results(inputs.frame, inputs.records)
    yield _shown(engine.general_table(found))
    for name in engine.paper_layouts():
        table = engine.paper_table(found, name, paper=True)
        rows = [row for row in table.rows if any(cell.n for cell in row.cells.values())]
        if rows and any(column.paper and column in row.cells for row in rows for column in table.columns):
            yield _shown(replace(table, title=f"{table.title}, with the published numbers", rows=rows))
    if not inputs.frame[inputs.frame["kind"] != PRETRAINING]["last_stage"].all():
        by_stage = engine.general_table(engine.Results(inputs.frame, inputs.records, every_stage=True))
        yield _shown(replace(by_stage, title="All results, after every stage"), folded=True)
    if inputs.frame["class_name"].notna().any():
        yield _shown(engine.per_class_table(inputs.frame, inputs.records), folded=True)
    detection = inputs.frame[(inputs.frame["kind"] == DETECTION) & inputs.frame["class_name"].isna()]
    if len(detection):
        by_split = detection.pivot_table("value", ["method", "dataset", "seed", "split"], "metric", dropna=False, sort=False)
        by_split = by_split.dropna(how="all").reset_index()
        by_split[["seed", "split"]] = by_split[["seed", "split"]].astype("Int64")  # with missing seeds they are floats
        cells = by_split.map(lambda value: f"{value:.2f}" if isinstance(value, float) else str(value))
        cells = cells.where(by_split.notna(), "")
        yield TextTable("Every split", list(cells.columns), cells.to_numpy().tolist(), labels=4, folded=True)


def _shown(table: engine.Table, folded: bool = False) -> TextTable:
    return TextTable(table.title, headings(table), lines(table, PLAIN), len(table.label_titles), table.notes, folded)


def ap_bars(report: Report) -> Iterator[Picture]:
    """AP over the splits."""
    if found := [run.path for run in report.inputs.of_kind(DETECTION) if run.splits]:
        yield _picture("AP of every method, with its deviation over the splits", draw_ap(found))


def analyses(report: Report) -> Iterator[Picture]:
    """Figures of what was analysed."""
    for what, title, draw in (("probes", "Linear accuracy by depth", draw_probes),
                              ("spectrum", "Singular values of the features", draw_spectrum)):
        paths = [record.path for record in report.inputs.evaluations
                 if record.kind == ANALYSIS and record.content["protocol"]["name"] == what]
        if paths:
            yield _picture(title, draw(paths))


def learning_rules(report: Report) -> Iterator[Picture]:
    """All rules that can be laid out, each once; the others are missing."""
    pretrained = {canonical([run.record.method["key"], run.record.setting["encoder"]]): run.path
                  for run in report.inputs.of_kind(PRETRAINING)}
    drawn = []
    for path in pretrained.values():
        try:
            rule_layout(read_model(path))
            drawn.append(path)
        except Exception as error:  # such as a rule that is not registered here
            report.missing.append((f"learning rule of {path}", " ".join(str(error).split())))
    if drawn:
        yield _picture("Learning rules: blocks, units, heads, and how far down each gradient flows", draw_units(drawn))


def training_curves(report: Report) -> Iterator[Picture]:
    """All curves of pretrainings that have logged something."""
    logged = [run.path for run in report.inputs.of_kind(PRETRAINING) if has_training_log(run.path)]
    for name, drawing in (draw_curves(logged) if logged else {}).items():
        title = name.removeprefix("curves").replace("_", " ").strip()
        yield _picture(title.capitalize() or "Training loss of every unit", drawing)


def detections(report: Report, images: int, data_root: str | Path | None) -> Iterator[Picture]:
    """Detections in some validation images of every data set, by the first split's detectors."""
    trained = [run for run in report.inputs.of_kind(DETECTION) if run.splits and images]
    for dataset in dict.fromkeys(dataset_of(run.record) for run in trained):
        here = [run for run in trained if dataset_of(run.record) == dataset]
        kept = [run for run in here if checkpoint_files(run.path / "split_0")]
        report.missing += [(f"detections of {run.path}", "split 0 has no checkpoint") for run in here if run not in kept]
        if kept:
            options = dict(score_threshold=0.1, most=2) if max(map(_best_ap, kept)) < WEAK_AP else {}
            drawing = draw_detections([run.path for run in kept], count=images, data_root=data_root, **options)
            yield _picture(f"Ground truth and predictions on {dataset}", drawing)


def _best_ap(run: Run) -> float:
    return max((row["value"] or 0.0 for split in run.splits for row in split.content["rows"]
                if row["metric"].endswith("_AP") and "class_name" not in row), default=0.0)


def _picture(title: str, drawing: Drawing) -> Picture:
    """A drawing as an image within the page; photographs are JPEG, for a few percent of the bytes."""
    buffer = io.BytesIO()
    kind = "jpeg" if any(ax.images for ax in drawing.figure.axes) else "png"
    with figure_style():
        drawing.figure.savefig(buffer, format=kind, dpi=DPI)
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(title, drawing.caption, source, round(drawing.figure.get_figwidth() * PIXELS_PER_INCH))
