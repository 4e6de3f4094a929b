"""The accuracy tables of the LoCo paper (1, 4, 5 and 7) as they are printed: plain data.

Every row that this project can reproduce names the config whose model it is. Accuracies are top-1 percentages of a linear
classifier on ImageNet's validation set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

ABLATIONS = "pretrain/ablations"


@dataclass(frozen=True)
class PaperRow:
    """A row of a table.

    Attributes:
        labels: the cells that name the row, one a label of the table; True is a check mark, False an empty cell.
        accuracy: top-1 accuracy in percent; None where the paper has none.
        config: pretraining config, relative to ``configs/``, whose rule and decoder the row has; None for rows that are
            not pretrained by this project.
        encoder: name of the encoder, where the config leaves it open.
        initialisation: what a row without config starts from instead: ``random`` weights, or ``supervised`` ones. None as
            well marks a row that is only quoted.
        memory_saving: SimCLR's peak memory over the row's (Table 7).
        epochs: epochs of pretraining of a row that is only quoted, where the paper tells them.
    """

    labels: tuple[str | bool, ...]
    accuracy: float | None
    config: str | None = None
    encoder: str | None = None
    initialisation: Literal["random", "supervised"] | None = None
    memory_saving: float | None = None
    epochs: int | None = None

    @property
    def quoted(self) -> bool:
        """Whether the row is only quoted from the paper: nothing of this project can fill it."""
        return self.config is None and self.initialisation is None


@dataclass(frozen=True)
class PaperTable:
    """A table.

    Attributes:
        number: as in the paper.
        label_titles: titles of the columns that name a row.
        epochs: epochs of pretraining of the paper's own rows.
        rows: in the paper's order.
        baseline: config of the row that the others' differences are taken to; None where no row is SimCLR.
        other_encoders: where runs with an encoder that the paper does not have go: into rows of their own (the second
            label is then the architecture), into columns of their own, or nowhere.
    """

    number: int
    label_titles: tuple[str, ...]
    epochs: int
    rows: tuple[PaperRow, ...]
    baseline: str | None
    other_encoders: Literal["rows", "columns", "nowhere"]


SIMCLR, GIM, LOCO = (f"_base_/pretrain_{rule}.py" for rule in ("simclr", "gim", "loco"))


def method_rows(encoder: str, architecture: str) -> tuple[PaperRow, ...]:
    """The rows of Table 1 that this project can fill for an encoder, without the paper's accuracies."""
    return (
        PaperRow(("Random", architecture, False), None, encoder=encoder, initialisation="random"),
        PaperRow(("Supervised", architecture, False), None, encoder=encoder, initialisation="supervised"),
        PaperRow(("SimCLR", architecture, False), None, SIMCLR, encoder),
        PaperRow(("GIM", architecture, True), None, GIM, encoder),
        PaperRow(("LoCo (Ours)", architecture, True), None, LOCO, encoder),
    )


def _with_accuracies(rows: tuple[PaperRow, ...], *accuracies: float | None) -> tuple[PaperRow, ...]:
    return tuple(replace(row, accuracy=accuracy) for row, accuracy in zip(rows, accuracies, strict=True))


_RESNET50 = _with_accuracies(
    method_rows("resnet50", "ResNet-50"),
    None,  # neither baseline is in the paper's table
    None,
    69.8,
    None,  # not legible in our text of the paper; section 5.1 tells "a significant drop of 5%"
    69.5,
)
_SHUFFLENET = _with_accuracies(method_rows("shufflenet_v2_50", "ShuffleNet v2-50"), None, None, 69.1, 63.5, 69.3)

TABLE_1 = PaperTable(
    number=1,
    label_titles=("Method", "Architecture", "Local"),
    epochs=800,  # section 5.1; of the rows quoted from other papers the caption tells SimCLR's alone
    rows=(
        *_RESNET50[:2],
        PaperRow(("Local Agg", "ResNet-50", False), 60.2),
        PaperRow(("MoCo", "ResNet-50", False), 60.6),
        PaperRow(("PIRL", "ResNet-50", False), 63.6),
        PaperRow(("CPC v2", "ResNet-50", False), 63.8),
        PaperRow(("SimCLR*", "ResNet-50", False), 69.3, epochs=1000),
        *_RESNET50[2:],
        *_SHUFFLENET,
    ),
    baseline=SIMCLR,
    other_encoders="rows",
)

TABLE_4 = PaperTable(
    number=4,
    label_titles=("Extra layers before MLP decoder", "Local", "Sharing"),
    epochs=100,
    rows=(
        PaperRow(("None", False, False), 65.7, f"{ABLATIONS}/table4_none.py"),
        PaperRow(("None", True, False), 60.9, f"{ABLATIONS}/table4_none_local.py"),
        PaperRow(("1 conv block", False, False), 65.6, f"{ABLATIONS}/table4_1conv.py"),
        PaperRow(("1 conv block (w/o ds)", True, False), 63.6, f"{ABLATIONS}/table4_1conv_nods_local.py"),
        PaperRow(("1 conv block", True, False), 65.1, f"{ABLATIONS}/table4_1conv_local.py"),
        PaperRow(("2 conv blocks", True, False), 65.8, f"{ABLATIONS}/table4_2conv_local.py"),
        PaperRow(("1 stage", True, False), 65.8, f"{ABLATIONS}/table4_1stage_local.py"),
        PaperRow(("full network", True, False), 65.8, f"{ABLATIONS}/table4_network_local.py"),
        PaperRow(("2-layer MLP", False, False), 67.1, f"{ABLATIONS}/table4_2mlp.py"),
        PaperRow(("2-layer MLP", True, False), 62.3, f"{ABLATIONS}/table4_2mlp_local.py"),
        PaperRow(("Ours", True, True), 66.2, f"{ABLATIONS}/table4_ours.py"),
        PaperRow(("Ours + 2-layer MLP", True, True), 67.5, f"{ABLATIONS}/table4_ours_2mlp.py"),
    ),
    baseline=f"{ABLATIONS}/table4_none.py",
    other_encoders="columns",
)

TABLE_5 = PaperTable(
    number=5,
    label_titles=("Sharing description",),
    epochs=100,
    rows=(
        PaperRow(("No sharing",), 65.1, f"{ABLATIONS}/table5_no_sharing.py"),
        PaperRow(("Upper layer grad only",), 65.3, f"{ABLATIONS}/table5_upper_gradient.py"),
        PaperRow(("L2 penalty (1e-4)",), 65.5, f"{ABLATIONS}/table5_l2_1e-4.py"),
        PaperRow(("L2 penalty (1e-3)",), 66.0, f"{ABLATIONS}/table5_l2_1e-3.py"),
        PaperRow(("L2 penalty (1e-2)",), 65.9, f"{ABLATIONS}/table5_l2_1e-2.py"),
        PaperRow(("Sharing 1 block",), 64.8, f"{ABLATIONS}/table5_1block.py"),
        PaperRow(("Sharing 2 blocks",), 65.3, f"{ABLATIONS}/table5_2blocks.py"),
        PaperRow(("Sharing 1 stage",), 66.2, f"{ABLATIONS}/table5_1stage.py"),
    ),
    baseline=None,
    other_encoders="columns",
)

TABLE_7 = PaperTable(
    number=7,
    label_titles=("Method",),
    epochs=100,
    rows=(
        PaperRow(("SimCLR",), 66.8, f"{ABLATIONS}/table7_presnet50_simclr.py", memory_saving=1.0),
        PaperRow(("GIM",), 52.6, f"{ABLATIONS}/table7_presnet50_gim.py", memory_saving=4.56),
        PaperRow(("LoCo",), 66.6, f"{ABLATIONS}/table7_presnet50_loco.py", memory_saving=2.76),
    ),
    baseline=f"{ABLATIONS}/table7_presnet50_simclr.py",
    other_encoders="nowhere",  # the table is about this one
)

TABLES = {table.number: table for table in (TABLE_1, TABLE_4, TABLE_5, TABLE_7)}


def paper_table(number: int) -> PaperTable:
    """A table of the paper by its number.

    Raises:
        ValueError: the paper has no such table of readout accuracies.
    """
    if number not in TABLES:
        raise ValueError(f"there is no accuracy table {number}; known are {', '.join(map(str, TABLES))} (Tables 2 and 3 are "
                         "tools/report_ap.py's, Table 6 tools/complexity.py's)")
    return TABLES[number]
