"""Accuracy tables as tests read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pretrain.readout.report import accuracy_report


def table_lines(paths: list[Path], number: int, **options: Any) -> list[list[str]]:
    """The cells of a Markdown table, line by line; every line has as many."""
    lines = [line.strip("| ").split(" | ") for line in report_text(paths, number, **options).splitlines()]
    return [[cell.strip() for cell in line] for line in lines]


def json_rows(paths: list[Path], number: int, **options: Any) -> list[dict[str, Any]]:
    """The rows of a table in JSON."""
    return json.loads(report_text(paths, number, fmt="json", **options))["rows"]


def report_text(paths: list[Path], number: int, **options: Any) -> str:
    """A table as it is printed."""
    return accuracy_report(paths, number, **options).text


def row_of(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The only row with these values."""
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row
