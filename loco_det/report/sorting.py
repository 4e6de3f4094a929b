"""What the page's script sorts the cells of tables by."""

from __future__ import annotations

import re

from loco_det.report.blocks import Table
from pretrain.results.formats import PLAIN

PREFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}  # SI's
BINARY_PREFIXES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_NUMBER = re.compile(r"""
    (?P<number>[-+]?\d+(\.\d+)?)
    (\ of\ (?P<total>\d+) | \ ?(?P<prefix>[KMGT]i|[kMGTP])(B|FLOPs)?)?
    (?=$|[\s%×(])
""", re.VERBOSE)


def sort_number(cell: str) -> float | None:
    """The number that a cell begins with, in its unit: 1.31e9 of "1.31 G", 0.125 of "100 of 800", 12.0 of "12.0 ± 1.8".

    None where it begins with none, as hashes and dates do not.
    """
    match = _NUMBER.match(cell)
    if match is None:
        return None
    number, total, prefix = float(match["number"]), match["total"], match["prefix"]
    if total is not None:
        return number / (int(total) or 1)
    return number * {**PREFIXES, **BINARY_PREFIXES}.get(prefix, 1)


def numeric_columns(table: Table) -> list[bool]:
    """Of every column whether all it holds are numbers, whatever follows them."""
    missing = ("", PLAIN.missing)
    columns = [[row[index] for row in table.rows if row[index] not in missing] for index in range(len(table.header))]
    return [bool(cells) and all(sort_number(cell) is not None for cell in cells) for cells in columns]
