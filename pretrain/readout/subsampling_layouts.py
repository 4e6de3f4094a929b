"""Layouts of the second paper's tables 1 and 2, and of figures 3 and 4 as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pretrain.readout.averages import LAST, NO_SCORE, Score, score_text
from pretrain.readout.sheets import Group, Sheet, Text, literal
from pretrain.readout.subsampling_grid import Cutting, Subsampling
from pretrain.readout.subsampling_published import FIGURE_K, KS, Cost
from pretrain.readout.subsampling_sources import Source
from pretrain.tables import Notation

SIMCLR, SUBSAMPLED = "SimCLR", "+ subsampling"  # the paper calls the latter "+ ours"


@dataclass(frozen=True)
class Objective:
    """A row or column "SimCLR" or "+ subsampling".

    Attributes:
        label: its name.
        subsampling: what it subsamples, by source; None for plain SimCLR. Sources that have no such results are missing.
    """

    label: str
    subsampling: Mapping[Source, Subsampling | None]


class _SheetMaker:
    """Collects the cells of a sheet row by row, the texts together with the numbers.

    The numbers are one dict for each row, source, objective and stage: ``table``, ``source`` (``ours`` or ``paper``), ``k``,
    ``cuts`` (blocks in words, with overlap and uneven cut points), ``method`` (the objective), what is subsampled
    (``threshold``, ``on``, ``average_over``), ``column``, ``data_set``, ``kind``, ``epochs``, ``encoder``, ``stage``,
    ``mean``, ``std``, ``delta`` (to plain SimCLR's mean), ``runs``, ``incomplete_runs``, and where there are costs
    ``max_macs`` and ``memory_bytes``. Accuracies in percent. None stands for what does not exist.

    Args:
        name: of the sheet.
        with_costs: whether the accuracies of a source are followed by the costs.
        plain_threshold: what stands for the threshold of plain SimCLR in the numbers.
    """

    def __init__(self, name: str, with_costs: bool = False, plain_threshold: float | None = None) -> None:
        self.name, self.with_costs, self.plain_threshold = name, with_costs, plain_threshold
        self.lines: list[tuple[Sequence[Text], list[Text]]] = []
        self.numbers: list[dict[str, Any]] = []

    def start(self, *labels: str) -> None:
        """Begins a row."""
        self.lines.append((list(map(literal, labels)), []))

    def add(self, source: Source, cutting: Cutting, objective: Objective) -> None:
        """Adds the cells of a source to the row."""
        known = source in objective.subsampling
        subsampling = objective.subsampling.get(source)
        cost = source.cost(cutting, subsampling) if known and self.with_costs else None
        told = subsampling._asdict() if subsampling else dict.fromkeys(Subsampling._fields)
        if known and subsampling is None:
            told["threshold"] = self.plain_threshold
        texts = self.lines[-1][1]
        for stage in source.stages:
            score = source.score(cutting, subsampling, stage) if known else None
            texts.append(partial(score_text, score, source.epochs))
            self.numbers.append({
                "table": self.name, "source": source.name, "k": cutting.k, "cuts": str(cutting), "method": objective.label,
                **told, "column": source.title, "data_set": source.data_set, "kind": source.kind, "epochs": source.epochs,
                "encoder": source.encoder, "stage": stage, **_score_numbers(score),
                **(_cost_numbers(cost) if self.with_costs else {}),
            })
        if self.with_costs:
            texts += [partial(_cost_text, cost, spelled) for spelled in (_spelled_macs, _spelled_memory)]

    def sheet(self, label_titles: Sequence[str], groups: Sequence[Group]) -> Sheet:
        """The finished sheet."""
        return Sheet(self.name, label_titles, groups, self.lines, self.numbers)


def table_1(sources: Sequence[Source]) -> Sheet:
    """Accuracy, largest block's multiply-adds and memory of every source, by K with and without subsampling."""
    objectives = _objectives(sources)
    maker = _SheetMaker("Table 1", with_costs=True)
    for cutting in _cuttings(sources, KS[1]):
        for objective in objectives:
            maker.start(str(cutting), objective.label)
            for source in sources:
                maker.add(source, cutting, objective)
    headings = {source: [*_stage_headings(source), "Max MACs", "Memory"] for source in sources}
    named = any(objective.label == SUBSAMPLED for objective in objectives)
    return maker.sheet(["K", "Method"], [Group(_title(source, named), headings[source], source.short) for source in sources])


def table_2(sources: Sequence[Source]) -> Sheet:
    """Accuracy by K, with and without subsampling side by side."""
    objectives = {source: _objectives([source]) for source in sources}
    maker = _SheetMaker("Table 2")
    for cutting in _cuttings(sources, KS[2]):
        maker.start(str(cutting))
        for source in sources:
            for objective in objectives[source]:
                maker.add(source, cutting, objective)
    groups = [Group(_title(source, len(objectives[source]) == 2), _side_by_side(source, objectives[source]), source.short)
              for source in sources]
    return maker.sheet(["K"], groups)


def figure_3(sources: Sequence[Source]) -> Sheet:
    """Accuracy by threshold where positives and negatives are subsampled; plain SimCLR stands at -1."""
    maker = _SheetMaker("Figure 3", plain_threshold=-1.0)  # no similarity is lower: every pair is kept
    kept = {subsampling for source in sources for subsampling in source.subsamplings if subsampling.on == "both"}
    ours = [source for source in sources if source.name == "ours"]
    for cutting in _cuttings(ours, [FIGURE_K] if len(ours) < len(sources) else []):
        for subsampling in [None, *sorted(kept)]:
            objective = Objective(SUBSAMPLED if subsampling else SIMCLR,
                            {source: subsampling for source in sources if subsampling in (None, *source.subsamplings)})
            if not any(source.score(cutting, subsampling, LAST) for source in objective.subsampling):
                continue
            maker.start(str(cutting), _threshold_text(subsampling))
            for source in sources:
                maker.add(source, cutting, objective)
    return maker.sheet(["K", "T"], [Group(source.title, _stage_headings(source), source.short) for source in sources])


def figure_4(sources: Sequence[Source]) -> Sheet:
    """Accuracy by K for nothing, positives, negatives, or both subsampled at one threshold."""
    groups = [(source, variant) for source in sources
              for variant in sorted({subsampling._replace(on="both") for subsampling in source.subsamplings}) or [None]]
    maker = _SheetMaker("Figure 4")
    objectives = {(source, variant): _one_threshold(source, variant) for source, variant in groups}
    for cutting in _cuttings(sources, ()):
        maker.start(str(cutting))
        for source, variant in groups:
            for objective in objectives[source, variant]:
                maker.add(source, cutting, objective)
    return maker.sheet(["K"], [_variant_group(source, variant, objectives[source, variant]) for source, variant in groups])


def _objectives(sources: Sequence[Source]) -> list[Objective]:
    """SimCLR and "+ subsampling"; where a source has several kinds of subsampling, one for each kind."""
    plain = Objective(SIMCLR, dict.fromkeys(sources))
    if all(len(source.subsamplings) <= 1 for source in sources):
        return [plain, Objective(SUBSAMPLED, {source: source.subsamplings[0] for source in sources if source.subsamplings})]
    kinds = sorted({subsampling for source in sources for subsampling in source.subsamplings})
    return [plain, *(Objective(f"{SUBSAMPLED}, {kind}", {source: kind for source in sources if kind in source.subsamplings})
                     for kind in kinds)]


def _one_threshold(source: Source, variant: Subsampling | None) -> list[Objective]:
    objectives = [Objective("none", {source: None})]
    for on in ("positives", "negatives", "both"):
        wanted = variant and variant._replace(on=on)
        objectives.append(Objective(on, {source: wanted} if wanted in source.subsamplings else {}))
    return objectives


def _cuttings(sources: Iterable[Source], ks: Iterable[int]) -> list[Cutting]:
    return sorted({*map(Cutting, ks), *(cutting for source in sources for cutting in source.cuttings)})


def _title(source: Source, with_threshold: bool) -> str:
    return ", ".join([source.title, *(map(str, source.subsamplings) if with_threshold else ())])


def _variant_group(source: Source, variant: Subsampling | None, objectives: Iterable[Objective]) -> Group:
    title, short = (f"{name}, {variant}" if variant else name for name in (source.title, source.short))
    return Group(title, _side_by_side(source, objectives), short)


def _stage_headings(source: Source) -> list[str]:
    return ["Accuracy" if stage == LAST else stage for stage in source.stages]


def _side_by_side(source: Source, objectives: Iterable[Objective]) -> list[str]:
    return [objective.label if stage == LAST else f"{objective.label}: {stage}"
            for objective in objectives for stage in source.stages]


def _threshold_text(subsampling: Subsampling | None) -> str:
    """Beside the heading "T"; that positives and negatives are subsampled goes without saying."""
    return f"-1 ({SIMCLR})" if subsampling is None else str(subsampling).removeprefix("T = ")


def _cost_text(cost: Cost | None, spelled: Callable[[Cost], str], notation: Notation) -> str:
    return notation.missing if cost is None else spelled(cost)


def _spelled_macs(cost: Cost) -> str:
    """Three digits, such as ``1.31 G`` or ``349 M``."""
    value, prefix = (cost.max_macs / 1e9, "G") if cost.max_macs >= 1e9 else (cost.max_macs / 1e6, "M")
    return f"{f'{value:#.3g}'.rstrip('.')} {prefix}"


def _spelled_memory(cost: Cost) -> str:
    value = cost.memory_bytes
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def _score_numbers(score: Score | None) -> dict[str, Any]:
    score = score or NO_SCORE
    return {"mean": score.mean, "std": score.std, "delta": score.delta, "runs": score.runs,
            "incomplete_runs": len(score.incomplete)}


def _cost_numbers(cost: Cost | None) -> dict[str, Any]:
    return {"max_macs": cost and cost.max_macs, "memory_bytes": cost and cost.memory_bytes}
