"""Where readout results stand in the second paper's tables: by the blocks their encoder was cut into, and by what was kept.

A place is told by what was trained, never by names: the number of decoupled blocks, the subsampling, and a column of all
else that results must have in common to be averaged. SimCLR end to end is K = 1, be its rule ``simclr`` or ``decoupled``.
"""

from __future__ import annotations

import inspect
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from mmengine.config import Config

from pretrain.decoders import Decoder
from pretrain.methods import method_of_record, subsampling_label
from pretrain.readout.averages import check_distinct, last_stage
from pretrain.readout.columns import Column, column_order, column_titles, flat
from pretrain.readout.recipes import CONFIGS, Recipe, architecture, recipe_of_model, recipe_of_record
from pretrain.readout.runs import KINDS, ReadoutRun
from pretrain.readout.subsampling_published import READOUT
from pretrain.record import pretraining_settings

READOUT_KINDS = ("linear_adam", "linear", "linear_cached")  # the paper's first
NOTHING_AT_THE_END = (0, "plain_conv")  # values of a decoder's conv_blocks that are the same on the encoder's end
UNRECORDED = {"settings": "not recorded"}  # of pretrainings from before they were
PAPER_CONFIG = "_base_/pretrain_decoupled_cifar10.py"  # its settings are those of all data sets, but for images and encoder
PAPER_SETTINGS = ("temperature", "batch_size", "optim_wrapper", "decoder")
AUGMENTATION = ("min_scale", "color_strength", "grayscale", "blur")  # wherever views are made


class Cutting(NamedTuple):
    """How an encoder is cut into blocks with a loss each.

    Attributes:
        k: number of blocks.
        window: blocks that a loss reaches, its own included; 1 is the paper's.
        cuts: cut points where the blocks are not equally long, otherwise empty.
    """

    k: int
    window: int = 1
    cuts: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.k == 1:
            return "1 (E2E)"
        window = "" if self.window == 1 else f", window {self.window}"
        return f"{self.k}{window}" + (f", cut at {' '.join(map(str, self.cuts))}" if self.cuts else "")


class Subsampling(NamedTuple):
    """Which pairs are left out, see :class:`~pretrain.losses.SubsampledNTXentLoss`."""

    threshold: float
    on: str = "both"
    average_over: str = "all"

    def __str__(self) -> str:
        return subsampling_label(*self)


class Place(NamedTuple):
    """Where a result stands.

    Attributes:
        cutting: the blocks.
        subsampling: None for plain SimCLR.
        column: all else.
    """

    cutting: Cutting
    subsampling: Subsampling | None
    column: Column


@dataclass(frozen=True)
class Grid:
    """All results in their places.

    Attributes:
        runs: results by place, in the order in which they were given.
        left_out: one line for each kind of results that are not of this paper.
    """

    runs: Mapping[Place, Sequence[ReadoutRun]]
    left_out: Sequence[str]

    @property
    def columns(self) -> list[Column]:
        """The columns that have results, in order."""
        return sorted({place.column for place in self.runs}, key=column_order)

    def subsamplings(self, column: Column) -> list[Subsampling]:
        """What is subsampled in a column, by threshold."""
        return sorted({place.subsampling for place in self.runs if place.column == column and place.subsampling})

    def only(self, columns: Iterable[Column]) -> Grid:
        """The part that stands in some columns."""
        kept = set(columns)
        return replace(self, runs={place: runs for place, runs in self.runs.items() if place.column in kept})


def fill_grid(runs: Sequence[ReadoutRun]) -> Grid:
    """Puts every result that is of decoupled SimCLR into its place.

    End to end there is no cut for the projector's convolution to stand at: such results are in every column that differs
    from theirs in this convolution alone.

    Raises:
        ValueError: a result is given twice (names both files), or none is of this paper (says what they are).
    """
    check_distinct(runs)
    placed: list[tuple[Place, ReadoutRun]] = []
    reasons: dict[str, list[ReadoutRun]] = defaultdict(list)
    for run in runs:
        try:
            placed.append((place_of(run), run))
        except ValueError as error:
            reasons[str(error)].append(run)
    left_out = [_left_out(reason, others) for reason, others in reasons.items()]
    if not placed:
        raise ValueError("no linear readout of decoupled SimCLR among the results: " + "; ".join(left_out))
    decoupled = {place.column for place, _ in placed if place.cutting.k > 1}
    cells: dict[Place, list[ReadoutRun]] = defaultdict(list)
    for place, run in placed:
        wanted = _without_plain_conv(place.column) if place.cutting.k == 1 else None
        alike = [column for column in decoupled if _without_plain_conv(column) == wanted]
        for column in alike or [place.column]:
            cells[place._replace(column=column)].append(run)
    return Grid(dict(cells), left_out)


def place_of(run: ReadoutRun) -> Place:
    """The place of a result.

    Raises:
        ValueError: it has none in the second paper's tables; says what it is, and what reports it.
    """
    if not run.record:
        raise ValueError(f"{run.initialisation or 'unknown'} encoder without pretraining (tools/report_linear.py has rows "
                         "for random and supervised ones)")
    recipe = recipe_of_record(run.record)
    rule = run.record["rule"]
    name = rule if isinstance(rule, str) else rule.get("type") if isinstance(rule, Mapping) else None
    if name not in ("decoupled", "simclr"):
        raise ValueError(f"{method_of_record(run.record).label}, not decoupled SimCLR (tools/report_linear.py reports it)")
    if run.kind not in READOUT_KINDS:
        raise ValueError(f"{KINDS[run.kind]} readouts, which tools/report_linear.py reports")
    if last_stage(run) not in run.accuracies:
        raise ValueError(f"readouts without an accuracy after the encoder's last stage, {last_stage(run)}")
    return Place(_cutting_of(recipe, rule), _subsampling_of(run), _column_of(run, recipe))


def shown_titles(columns: Sequence[Column]) -> dict[Column, str]:
    """A title for each column; those of other settings than the paper's say so."""
    recorded = column_titles([column for column in columns if is_recorded(column)])
    older = column_titles([column for column in columns if not is_recorded(column)])
    named = {column: f"{title}, not the paper's settings" if departures(column) else title
             for column, title in recorded.items()}
    named |= {column: f"{title}, settings not recorded" for column, title in older.items()}
    return {column: named[column] for column in columns}


def is_recorded(column: Column) -> bool:
    """Whether the records of a column's pretrainings have their settings."""
    return not UNRECORDED.items() <= json.loads(column.pretraining).items()


def departures(column: Column) -> list[str]:
    """What of a column's settings is not the paper's, such as ``temperature=0.1 (paper: 0.5)``.

    Data, encoder and epochs, which titles tell, are not compared, nor is a readout that is not by Adam.

    Args:
        column: one whose settings are recorded.
    """
    ours, paper = _compared(json.loads(column.pretraining)), _paper_settings()
    if column.kind == READOUT_KINDS[0]:
        protocol = json.loads(column.setting)
        ours |= {f"readout {key}": protocol.get(f"protocol.{key}") for key in READOUT}
        paper = paper | {f"readout {key}": value for key, value in READOUT.items()}
    return [f"{key}={ours.get(key, 'unset')} (paper: {paper.get(key, 'unset')})" for key in sorted({*ours, *paper})
            if ours.get(key) != paper.get(key)]


def _left_out(reason: str, runs: Sequence[ReadoutRun]) -> str:
    others = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    return f"{runs[0].source}{others}: {reason}"


def _cutting_of(recipe: Recipe, rule: Any) -> Cutting:
    inner = [unit.end for unit in recipe.units[:-1]]
    lengths = {end - start for start, end in pairwise([0, *inner, recipe.units[-1].end])}
    window = rule.get("window", 1) if isinstance(rule, Mapping) else 1
    k = len(recipe.units)
    return Cutting(k, min(window, k), () if len(lengths) == 1 else tuple(inner))


def _subsampling_of(run: ReadoutRun) -> Subsampling | None:
    options = (run.settings or {}).get("subsampling")
    try:
        return Subsampling(**options) if options else None
    except TypeError as error:
        raise ValueError(f"its subsampling {options} does not resolve ({error})") from error


def _column_of(run: ReadoutRun, recipe: Recipe) -> Column:
    settings = dict(run.settings or UNRECORDED)
    settings.pop("subsampling", None)
    pretraining = flat({**settings, "decoder": _decoder_of(recipe)})
    return Column(run.data_set, run.kind, run.epochs, architecture(run.encoder_spec), flat(run.setting), pretraining)


def _decoder_of(recipe: Recipe) -> dict[str, Any]:
    """The decoders' options with their defaults, and those that have no effect end to end as the paper has them."""
    defaults = {p.name: p.default for p in inspect.signature(Decoder).parameters.values() if p.default is not p.empty}
    decoder = defaults | json.loads(recipe.decoder)
    if len(recipe.units) == 1 and decoder["conv_blocks"] in NOTHING_AT_THE_END:
        decoder |= {"conv_blocks": "plain_conv", "downsample": True}
    return decoder


def _without_plain_conv(column: Column) -> Column:
    settings = json.loads(column.pretraining)
    if settings["decoder.conv_blocks"] in NOTHING_AT_THE_END:
        del settings["decoder.conv_blocks"], settings["decoder.downsample"]
    return replace(column, pretraining=json.dumps(settings, sort_keys=True))


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of flat settings, those that the paper names."""
    chosen = {}
    for key, value in settings.items():
        if key.startswith("param_scheduler.") and key.endswith(".type"):
            chosen["param_scheduler"] = " ".join(filter(None, [chosen.get("param_scheduler"), value]))
        elif key.split(".")[0] in PAPER_SETTINGS:
            chosen[key] = value
        elif key.startswith("data.") and key.split(".")[-1] in AUGMENTATION:
            chosen[key.split(".")[-1]] = value
    return chosen


@lru_cache
def _paper_settings() -> dict[str, Any]:
    config = Config.fromfile(str(CONFIGS / PAPER_CONFIG), import_custom_modules=False).to_dict()
    recipe = recipe_of_model(config["model"], config["model"]["encoder"])
    return _compared(json.loads(flat({**pretraining_settings(config), "decoder": _decoder_of(recipe)})))
