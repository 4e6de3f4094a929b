"""The columns of a table: what readout results must have in common to be averaged, and what tells columns apart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.readout.runs import KINDS
from pretrain.tables import epochs


@dataclass(frozen=True)
class Column:
    """What results must have in common to be averaged, beside their row.

    Attributes:
        data_set: name of the data set.
        kind: a key of :data:`~pretrain.readout.runs.KINDS`.
        epochs: epochs of the pretraining's whole schedule; None where only encoders without pretraining were read out.
        architecture: the encoder, where it is not the one of the paper's row.
        setting: data and protocol of the readout as JSON, see :func:`flat`.
        pretraining: the pretraining's settings in the same form; None where its record is from before they were recorded,
            and without pretraining.
    """

    data_set: str
    kind: str
    epochs: int | None
    architecture: str | None
    setting: str
    pretraining: str | None


def column_titles(columns: Sequence[Column]) -> dict[Column, str]:
    """A title for each column; what it must tell to differ from the others is part of it."""
    plain = {column: _plain_title(column) for column in columns}
    titles = {}
    for column, title in plain.items():
        alike = [other for other in columns if plain[other] == title]
        readout = _differing(column.setting, {other.setting for other in alike})
        recorded = {other.pretraining for other in alike if other.pretraining is not None}
        if column.pretraining is not None:
            pretraining = _differing(column.pretraining, recorded)
        else:
            pretraining = "settings not recorded" if recorded else ""
        titles[column] = ", ".join(filter(None, [title, readout, pretraining and f"pretraining: {pretraining}"]))
    return titles


def _differing(settings: str, others: Iterable[str]) -> str:
    """What of its settings a column must tell to differ from others, as ``key=value, ...``."""
    mine, rest = json.loads(settings), [json.loads(other) for other in others]
    keys = sorted(key for key in set().union(*rest) if len({json.dumps(other.get(key)) for other in rest}) > 1)
    return ", ".join(f"{_short(key, keys)}={_spelled(mine[key])}" for key in keys if key in mine)


def _short(key: str, keys: Sequence[str]) -> str:
    """The shortest ending of a dotted name that is clear among others; those of elements of lists are told whole."""
    parts = key.split(".")
    for length in range(1, len(parts)):
        name = ".".join(parts[-length:])
        if name != "type" and not any(map(str.isdigit, parts)) and sum(f".{k}".endswith(f".{name}") for k in keys) == 1:
            return name
    return key


def _spelled(value: Any) -> str:
    return f"{value[:8]}…" if isinstance(value, str) and re.fullmatch("[0-9a-f]{32,}", value) else str(value)  # a hash


def flat(settings: Mapping[str, Any]) -> str:
    """Nested settings as a JSON object of their leaves by dotted names; None is as good as left out."""
    return json.dumps({name: value for name, value in _leaves(settings) if value is not None}, sort_keys=True)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping | list):
        for key, child in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(child, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def column_order(column: Column) -> tuple:
    """Sorts columns by data set, kind, encoder, epochs and settings."""
    kind = list(KINDS).index(column.kind)
    return (column.data_set, kind, column.architecture or "", column.epochs or 0, column.setting, column.pretraining or "")


def _plain_title(column: Column) -> str:
    parts = [f"{column.data_set} {KINDS[column.kind]}", column.architecture]
    return ", ".join(filter(None, [*parts, None if column.epochs is None else epochs(column.epochs)]))
