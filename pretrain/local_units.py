"""Local units and the learning rules that are lists of them: plain data, no tensors.

An encoder is a sequence of blocks. A local unit is a contiguous run of blocks with a loss on the output of its last block;
the loss reaches and updates exactly these blocks and the unit's decoder. Every learning rule is a list of units:
end-to-end SimCLR has one that spans the encoder, Greedy InfoMax one a stage, LoCo one a stage that reaches down into the
stage below (LoCo, section 4.1, figure 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

Stages = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class LocalUnit:
    """Blocks ``[start, end)`` trained by one loss on the output of block ``end - 1``.

    Attributes:
        start: first block that the loss reaches.
        end: one past the last block.

    Raises:
        ValueError: the range is empty or starts below 0.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"local unit [{self.start}, {self.end}) is no range of blocks; 0 <= start < end is needed")

    def __str__(self) -> str:
        return f"[{self.start},{self.end})"

    def covers(self, block: int) -> bool:
        """Whether the unit's loss reaches ``block``."""
        return self.start <= block < self.end


def simclr_units(stages: Stages) -> list[LocalUnit]:
    """One unit over the whole encoder: end-to-end backpropagation (Chen et al., 2020)."""
    return [LocalUnit(0, _ends(stages)[-1])]


def windowed_units(stages: Stages, window: int) -> list[LocalUnit]:
    """One unit a stage, each reaching ``window`` stages deep (its own included), fewer at the bottom.

    Raises:
        ValueError: ``window`` is below 1.
    """
    if window < 1:
        raise ValueError(f"window is {window}; a unit spans at least 1 stage")
    ranges = list(stages.values())
    return [LocalUnit(ranges[max(0, k - window + 1)][0], end) for k, (_, end) in enumerate(ranges)]


def gim_units(stages: Stages) -> list[LocalUnit]:
    """One unit a stage and no overlap: Greedy InfoMax (LoCo, section 3.2)."""
    return windowed_units(stages, window=1)


def loco_units(stages: Stages, window: int = 2, res2_loss: bool = True) -> list[LocalUnit]:
    """LoCo: every loss reaches its own stage and the one below (LoCo, section 4.1).

    Args:
        stages: the encoder's stages.
        window: stages a unit; 2 is LoCo, 3 answers a reviewer's question.
        res2_loss: whether the first stage has a loss of its own. The supplement's figure 1 plots it; section 4.1
            ("res3 and res4 appear twice") reads as if there were none.
    """
    units = windowed_units(stages, window)
    return units if res2_loss else units[1:]


RULES: dict[str, Callable[..., list[LocalUnit]]] = {
    "simclr": simclr_units,
    "gim": gim_units,
    "loco": loco_units,
}


def build_units(rule: str | Mapping | Sequence, stages: Stages, allow_untrained: bool = False) -> list[LocalUnit]:
    """Resolves a learning rule for an encoder.

    Args:
        rule: a name in :data:`RULES`, ``dict(type=name, ...)`` with the rule's options, or a list of ``(start, end)``.
        stages: the encoder's stages, name -> ``(start, end)``.
        allow_untrained: whether blocks that no unit reaches may stay untrained.

    Returns:
        The units in ascending order of their ends, then starts.

    Raises:
        ValueError: unknown rule or option, ranges past the encoder's end, units given twice, untrained blocks.
    """
    if isinstance(rule, str | Mapping):
        options = {"type": rule} if isinstance(rule, str) else dict(rule)
        name = options.pop("type", None)
        if name not in RULES:
            near = difflib.get_close_matches(str(name), RULES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"unknown learning rule {name!r}: known are {', '.join(sorted(RULES))}, or a list of "
                             f"(start, end) block ranges{hint}")
        try:
            units = RULES[name](stages, **options)
        except TypeError as error:
            raise ValueError(f"options of learning rule {name!r} do not fit: {error}") from error
    else:
        units = _units_from_ranges(rule)
    check_units(units, _ends(stages)[-1], allow_untrained)
    return sorted(units, key=lambda unit: (unit.end, unit.start))


def check_units(units: Sequence[LocalUnit], num_blocks: int, allow_untrained: bool = False) -> None:
    """Checks that ``units`` fit an encoder of ``num_blocks`` blocks; see :func:`build_units` for the errors."""
    if not units:
        raise ValueError("a learning rule needs at least one local unit; the list of units is empty")
    for unit in units:
        if unit.end > num_blocks:
            raise ValueError(f"local unit {unit} reaches past the encoder's end: it has {num_blocks} blocks "
                             f"(0 to {num_blocks - 1})")
    repeated = [unit for unit in units if list(units).count(unit) > 1]
    if repeated:
        raise ValueError(f"local unit {repeated[0]} is given more than once")
    untrained = [block for block in range(num_blocks) if not any(unit.covers(block) for unit in units)]
    if untrained and not allow_untrained:
        raise ValueError(f"no local unit reaches block(s) {', '.join(map(str, untrained))}; add a unit or set "
                         "allow_untrained=True")


def unit_names(units: Sequence[LocalUnit], stages: Stages) -> list[str]:
    """A name for each unit: the stage at whose end its loss sits, else ``block<i>``; with the start where ends coincide."""
    by_end = {end: name for name, (_, end) in stages.items()}
    ends = [unit.end for unit in units]
    return [
        by_end.get(unit.end, f"block{unit.end - 1}") + (f"_from{unit.start}" if ends.count(unit.end) > 1 else "")
        for unit in units
    ]


def _ends(stages: Stages) -> list[int]:
    return [end for _, end in stages.values()]


def _units_from_ranges(ranges: object) -> list[LocalUnit]:
    if not isinstance(ranges, Iterable):
        raise ValueError(f"learning rule {ranges!r} is neither a name nor a list of (start, end) block ranges")
    units = []
    for item in ranges:
        pair = list(item) if isinstance(item, Iterable) else []
        if len(pair) != 2 or not all(type(value) is int for value in pair):
            raise ValueError(f"local unit {item!r} is not a pair (start, end) of block indices")
        units.append(LocalUnit(*pair))
    return units
