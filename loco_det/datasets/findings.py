"""What checks of a data set find: kinds of problems, how often each occurs, and where first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SHOWN = 5  # offenders kept of each kind


@dataclass(frozen=True)
class Problem:
    """A kind of problem.

    Attributes:
        text: what it is, so that a count can follow: "annotations without a segmentation".
        mend: what to do about it, or what becomes of it.
        fatal: whether a run would end on it, or compute a wrong number; the others are worth knowing.
    """

    text: str
    mend: str
    fatal: bool = True


@dataclass
class Offenders:
    """How often a problem occurs, and the first places."""

    count: int = 0
    first: list[str] = field(default_factory=list)


class Findings:
    """Problems in the order in which they were found first."""

    def __init__(self) -> None:
        self._offenders: dict[Problem, Offenders] = {}

    def add(self, problem: Problem, offender: str) -> None:
        """Counts one more ``problem``."""
        offenders = self._offenders.setdefault(problem, Offenders())
        offenders.count += 1
        if len(offenders.first) < SHOWN:
            offenders.first.append(printable(offender))

    def __contains__(self, problem: Problem) -> bool:
        return problem in self._offenders

    @property
    def has_fatal(self) -> bool:
        """Whether a run would end on one of them."""
        return any(problem.fatal for problem in self._offenders)

    def fatal_line(self) -> str:
        """The first fatal problem, and how many more kinds there are; at least one must have been found."""
        fatal = [problem for problem in self._offenders if problem.fatal]
        more = f" (and {len(fatal) - 1} more kinds; tools/prepare_data.py check lists them)" if len(fatal) > 1 else ""
        return _spell(fatal[0], self._offenders[fatal[0]]) + more

    def lines(self) -> list[str]:
        """A line each: the fatal ones first."""
        return [_spell(problem, self._offenders[problem]) for problem in self._sorted()]

    def plain(self) -> list[dict[str, Any]]:
        """As :meth:`lines`, but as plain data."""
        return [
            dict(problem=problem.text, severity="error" if problem.fatal else "warning",
                 count=self._offenders[problem].count, first=self._offenders[problem].first, mend=problem.mend)
            for problem in self._sorted()
        ]

    def _sorted(self) -> list[Problem]:
        return sorted(self._offenders, key=lambda problem: not problem.fatal)


def printable(text: str) -> str:
    """The text with lone surrogates escaped: JSON and file systems let them through, UTF-8 files and streams do not."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _spell(problem: Problem, offenders: Offenders) -> str:
    first = ", ".join(offenders.first) + (", ..." if offenders.count > len(offenders.first) else "")
    return f"{problem.text}: {offenders.count} ({first}); {problem.mend}"
