"""Tables as text: headings over rows, in every notation that has them."""

from __future__ import annotations

from pretrain.tables import Heading, epochs, latex_table, markdown_table

ROWS = [["a", "1"], Heading("first"), ["b", "2"], Heading("second"), ["c", "3"]]


def test_markdown_heading_is_a_row_as_wide_as_the_others() -> None:
    """Markdown has no spanning cells: the title stands in the first and the others are empty."""
    assert markdown_table(["x", "y"], ROWS).splitlines() == [
        "| x | y |", "| --- | --- |", "| a | 1 |", "| **first** |  |", "| b | 2 |", "| **second** |  |", "| c | 3 |",
    ]  # fmt: skip


def test_latex_heading_spans_the_table_between_rules() -> None:
    """One rule before and one after each heading, never two in a row, also where a heading comes first."""
    lines = latex_table(["x", "y"], ROWS).splitlines()
    body = lines[lines.index(r"\midrule") : lines.index(r"\bottomrule")]
    assert body == [
        r"\midrule", r"a & 1 \\", r"\midrule", r"\multicolumn{2}{c}{first} \\", r"\midrule", r"b & 2 \\",
        r"\midrule", r"\multicolumn{2}{c}{second} \\", r"\midrule", r"c & 3 \\",
    ]  # fmt: skip
    assert r"\midrule" + "\n" + r"\midrule" not in latex_table(["x", "y"], ROWS[1:])


def test_epochs_are_spelled_in_the_right_number() -> None:
    """One epoch is not several."""
    assert [epochs(number) for number in (0, 1, 2, 800)] == ["0 epochs", "1 epoch", "2 epochs", "800 epochs"]
