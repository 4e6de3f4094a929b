"""Local units and the learning rules that are lists of them: plain data, no tensors.

An encoder is a sequence of blocks. A local unit is a contiguous run of blocks with a loss on the output of its last block;
the loss reaches and updates exactly these blocks and the unit's head. Every learning rule is a list of units:
end-to-end SimCLR has one that spans the encoder, Greedy InfoMax one per stage, LoCo one per stage that reaches down into the
stage below (LoCo, section 4.1, figure 1), decoupled SimCLR K of equal length (Fournier et al., 2023, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pretrain.options import build_with_options, unknown_name

Stages = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class LocalUnit:
    """Blocks ``[start, end)`` trained by one loss on the output of block ``end - 1``.

    Attributes:
        start: first block that the loss reaches.
        end: one past the last block.
        updates: half-open range of the blocks that the loss updates, where these are not all that it reaches: its gradient
            passes through the others without changing them (LoCo, table 5, "Upper layer grad only").

    Raises:
        ValueError: a range is empty, starts below 0, or updates blocks that the loss does not reach.
    """

    start: int
    end: int
    updates: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"local unit [{self.start}, {self.end}) is not a range of blocks; 0 <= start < end is needed")
        if self.updates is not None:
            first, last = self.updates
            if not self.start <= first < last <= self.end:
                raise ValueError(f"local unit [{self.start}, {self.end}) cannot update blocks [{first}, {last}): they must "
                                 "be a non-empty part of what it reaches")
            if self.updates == (self.start, self.end):
                object.__setattr__(self, "updates", None)

    def __str__(self) -> str:
        reach = f"[{self.start},{self.end})"
        return reach if self.updates is None else f"{reach} updating [{self.updates[0]},{self.updates[1]})"

    def trains(self, block: int) -> bool:
        """Whether the unit's loss updates ``block``."""
        first, last = self.updates or (self.start, self.end)
        return first <= block < last


def simclr_units(stages: Stages) -> list[LocalUnit]:
    """One unit over the whole encoder: end-to-end backpropagation (Chen et al., 2020)."""
    return [LocalUnit(0, _ends(stages)[-1])]


def windowed_units(stages: Stages, window: int) -> list[LocalUnit]:
    """One unit per stage, each reaching ``window`` stages deep (its own included), fewer at the bottom.

    Raises:
        ValueError: ``window`` is not a whole number of at least 1.
    """
    if type(window) is not int or window < 1:
        raise ValueError(f"window is {window!r}; a unit spans at least 1 stage, or run of a decoupled encoder, and a whole "
                         "number of them")
    ranges = list(stages.values())
    return [LocalUnit(ranges[max(0, k - window + 1)][0], end) for k, (_, end) in enumerate(ranges)]


def gim_units(stages: Stages) -> list[LocalUnit]:
    """One unit per stage and no overlap: Greedy InfoMax (LoCo, section 3.2)."""
    return windowed_units(stages, window=1)


def loco_units(stages: Stages, window: int = 2, res2_loss: bool = True) -> list[LocalUnit]:
    """LoCo: every loss reaches its own stage and the one below (LoCo, section 4.1).

    Args:
        stages: the encoder's stages.
        window: stages per unit; 2 is LoCo, 3 answers a reviewer's question.
        res2_loss: whether the first stage has a loss of its own. The supplement's figure 1 plots it; section 4.1
            ("res3 and res4 appear twice") reads as if there were none.
    """
    units = windowed_units(stages, window)
    return units if res2_loss else units[1:]


def upper_gradient_units(stages: Stages) -> list[LocalUnit]:
    """LoCo in which a shared stage is updated by the upper of its two losses alone (LoCo, table 5, "Upper layer grad only").

    A loss passes through its own stage and updates the one below; the last one updates both of its stages. The first
    stage's own loss would update nothing, so there is none.

    Raises:
        ValueError: the encoder has a single stage, so that no stage lies above another.
    """
    ranges = list(stages.values())
    if len(ranges) < 2:
        raise ValueError("upper_gradient needs an encoder of at least 2 stages; this one has 1")
    pairs = list(zip(ranges, ranges[1:], strict=False))
    lower = [LocalUnit(start, end, updates=(start, middle)) for (start, middle), (_, end) in pairs[:-1]]
    return [*lower, LocalUnit(ranges[-2][0], ranges[-1][1])]


def sharing_units(stages: Stages, blocks: int) -> list[LocalUnit]:
    """One unit per stage plus the first ``blocks`` blocks of the next (LoCo, section 5.5 and table 5, "Sharing n blocks").

    Raises:
        ValueError: ``blocks`` is not a whole number of at least 1, or a stage has fewer blocks.
    """
    ranges = list(stages.items())
    for name, (start, end) in ranges[1:]:
        if type(blocks) is not int or not 1 <= blocks <= end - start:
            raise ValueError(f"sharing {blocks!r} block(s) does not fit stage {name}, which has {end - start}; 1 to "
                             f"{min(e - s for _, (s, e) in ranges[1:])} are possible")
    return [
        LocalUnit(start, end + (blocks if end < ranges[-1][1][1] else 0)) for _, (start, end) in ranges
    ]


def decoupled_units(
    stages: Stages, k: int | None = None, cuts: Sequence[int] | None = None, window: int = 1
) -> list[LocalUnit]:
    """The encoder cut into runs of blocks with a loss each, wherever its stages end (Fournier et al., 2023, section 3.1).

    Args:
        stages: the encoder's stages.
        k: number of runs, all of the same number of blocks: 4, 8 and 16 of ResNet-50 are the paper's (table 3), 1 is
            end-to-end SimCLR.
        cuts: instead of ``k``, where to cut, ascending: a cut point ``c`` lies between blocks ``c - 1`` and ``c``.
        window: runs that a loss reaches, its own included; 1 is the paper's, 2 adds LoCo's overlap, which neither paper has.

    Raises:
        ValueError: neither or both of ``k`` and ``cuts`` are given, the encoder cannot be cut so, or ``window`` is below 1.
    """
    if k is None and cuts is None:
        raise ValueError("the decoupled rule has k=None and cuts=None; give one of them, k=4 or cuts=[4, 8, 12]")
    if k is not None and cuts is not None:
        raise ValueError(f"the decoupled rule has k={k!r} and cuts={cuts!r}; give one of them, and unset what a config "
                         "inherits: k=None, --cfg-options model.rule.k=None")
    num_blocks = _ends(stages)[-1]
    inner = _equal_cuts(k, num_blocks) if cuts is None else _checked_cuts(cuts, num_blocks)
    runs = {f"run{index}": run for index, run in enumerate(pairwise([0, *inner, num_blocks]))}
    return windowed_units(runs, window)


def _equal_cuts(k: int, num_blocks: int) -> list[int]:
    possible = [number for number in range(1, num_blocks + 1) if num_blocks % number == 0]
    if type(k) is not int or k not in possible:
        raise ValueError(f"an encoder of {num_blocks} blocks cannot be cut into k={k!r} equal runs; k can be "
                         f"{', '.join(map(str, possible))}, and cuts=[...] sets other cut points")
    return list(range(num_blocks // k, num_blocks, num_blocks // k))


def _checked_cuts(cuts: Sequence[int], num_blocks: int) -> list[int]:
    if not isinstance(cuts, Sequence) or not all(type(cut) is int and 0 < cut < num_blocks for cut in cuts):
        raise ValueError(f"cuts={cuts!r} are not cut points of an encoder of {num_blocks} blocks; a list of block indices "
                         f"from 1 to {num_blocks - 1} is needed")
    if any(upper <= lower for lower, upper in pairwise(cuts)):
        raise ValueError(f"cuts={list(cuts)} are not ascending; {sorted(set(cuts))} would be")
    return list(cuts)


RULES: dict[str, Callable[..., list[LocalUnit]]] = {
    "simclr": simclr_units,
    "gim": gim_units,
    "loco": loco_units,
    "upper_gradient": upper_gradient_units,
    "sharing": sharing_units,
    "decoupled": decoupled_units,
}


def build_units(rule: str | Mapping | Sequence, stages: Stages, allow_untrained: bool = False) -> list[LocalUnit]:
    """Resolves a learning rule for an encoder.

    Args:
        rule: a name in :data:`RULES`, ``dict(type=name, ...)`` with the rule's options, or a list of units, each
            ``(start, end)`` or ``dict(start=, end=, updates=)``.
        stages: the encoder's stages, name -> ``(start, end)``.
        allow_untrained: whether blocks that no unit updates may stay untrained.

    Returns:
        The units in ascending order of their ends, then starts.

    Raises:
        ValueError: unknown rule or option, ranges past the encoder's end, units given twice, untrained blocks.
    """
    check_rule_name(rule)
    if isinstance(rule, str | Mapping):
        options = {"type": rule} if isinstance(rule, str) else dict(rule)
        name = options.pop("type")
        units = build_with_options(f"learning rule {name!r}", RULES[name], options, stages)
    else:
        units = _units_from_ranges(rule)
    check_units(units, _ends(stages)[-1], allow_untrained)
    return sorted(units, key=lambda unit: (unit.end, unit.start))


def check_rule_name(rule: str | Mapping | Sequence) -> None:
    """Refuses a learning rule, of the form that :func:`build_units` takes, whose name is unknown, with a ``ValueError``."""
    name = rule.get("type") if isinstance(rule, Mapping) else rule
    if isinstance(rule, str | Mapping) and name not in RULES:
        raise unknown_name("learning rule", name, RULES, ", or a list of (start, end) block ranges")


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
    untrained = untrained_blocks(units, num_blocks)
    if untrained and not allow_untrained:
        raise ValueError(f"no local unit updates block(s) {', '.join(map(str, untrained))}; add a unit or set "
                         "allow_untrained=True")


def untrained_blocks(units: Sequence[LocalUnit], num_blocks: int) -> list[int]:
    """The blocks that no unit updates."""
    return [block for block in range(num_blocks) if not any(unit.trains(block) for unit in units)]


def unit_names(units: Sequence[LocalUnit], stages: Stages) -> list[str]:
    """A name for each unit: the stage at whose end its loss sits, else ``block<i>``.

    Where ends coincide, the start is part of the name; where starts do as well, the updated range.
    """
    by_end = {end: name for name, (_, end) in stages.items()}
    ends, ranges = [unit.end for unit in units], [(unit.start, unit.end) for unit in units]
    names = []
    for unit in units:
        name = by_end.get(unit.end, f"block{unit.end - 1}")
        if ends.count(unit.end) > 1:
            name += f"_from{unit.start}"
        if ranges.count((unit.start, unit.end)) > 1:
            name += "_all" if unit.updates is None else f"_updating{unit.updates[0]}to{unit.updates[1] - 1}"
        names.append(name)
    return names


def _ends(stages: Stages) -> list[int]:
    return [end for _, end in stages.values()]


def _units_from_ranges(ranges: object) -> list[LocalUnit]:
    if not isinstance(ranges, Iterable):
        raise ValueError(f"learning rule {ranges!r} is neither a name nor a list of (start, end) block ranges")
    units = []
    for item in ranges:
        if isinstance(item, LocalUnit | Mapping):
            units.append(item if isinstance(item, LocalUnit) else _unit_from_dict(item))
            continue
        pair = list(item) if isinstance(item, Iterable) else []
        if len(pair) != 2 or not all(type(value) is int for value in pair):
            raise ValueError(f"local unit {item!r} is not a pair (start, end) of block indices")
        units.append(LocalUnit(*pair))
    return units


def _unit_from_dict(item: Mapping) -> LocalUnit:
    options = dict(item)
    updates = options.pop("updates", None)
    bounds = [*options.values(), *(updates or ())]
    if set(options) != {"start", "end"} or len(bounds) not in (2, 4) or not all(type(value) is int for value in bounds):
        raise ValueError(f"local unit {dict(item)!r} is not of the form dict(start=0, end=7, updates=(0, 3)) with block "
                         "indices")
    return LocalUnit(**options, updates=None if updates is None else tuple(updates))
