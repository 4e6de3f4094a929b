"""The accuracies and costs that the second paper prints (Fournier et al., 2023, tables 1 and 2): plain data.

Figures 3 and 4 are drawings without numbers. What they share with table 1, both on CIFAR-10, is printed there: figure 3 is
about K = 16, its left end (T = -1, where every pair is kept) is SimCLR and its peak at T = 0 is "+ ours"; figure 4's curves
without subsampling and with both kinds of pairs subsampled are the table's rows. The other points are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KS = {1: (1, 4, 8, 16), 2: (1, 8)}  # rows of the tables, by the table
FIGURE_K = 16  # of figure 3
EPOCHS = 1000  # section 4, "Hyper-parameters and datasets"
READOUT = {"epochs": 200, "batch_size": 256, "lr": 1e-3, "weight_decay": 1e-6}  # section 4.1, "Linear evaluation"


@dataclass(frozen=True)
class Cost:
    """The columns "Max MACs" and "Memory".

    Attributes:
        max_macs: multiply-adds of the largest block's forward pass, for one image.
        memory_bytes: peak memory of a step; of the paper's, GB are taken as 10^9 bytes.
    """

    max_macs: float
    memory_bytes: float


@dataclass(frozen=True)
class PublishedResults:
    """What a table of the paper says of one data set.

    Attributes:
        table: number of the table.
        data_set: its name.
        encoder: config of the encoder (section 4 and appendix, "Architecture details").
        threshold: T of the rows "+ ours" (section 4).
        runs: number of runs that a mean is over. STL-10's is not told, and has no deviations.
        simclr: by K, mean and standard deviation of the accuracy in percent; None for no deviation.
        subsampled: the same of "+ ours".
        costs: by K; the paper prints one for both rows.
    """

    table: int
    data_set: str
    encoder: Mapping[str, str]
    threshold: float
    runs: int
    simclr: Mapping[int, tuple[float, float | None]]
    subsampled: Mapping[int, tuple[float, float | None]]
    costs: Mapping[int, Cost]


CIFAR10 = PublishedResults(
    table=1,
    data_set="CIFAR-10",
    encoder={"type": "resnet50", "stem": "small"},
    threshold=0.0,
    runs=5,
    simclr={1: (92.1, 0.2), 4: (90.0, 0.1), 8: (87.5, 0.4), 16: (85.9, 0.3)},
    subsampled={1: (91.4, 0.4), 4: (89.9, 0.3), 8: (88.4, 0.4), 16: (87.1, 0.4)},
    costs={1: Cost(1.31e9, 13.5e9), 4: Cost(349e6, 8.7e9), 8: Cost(196e6, 6.3e9),
           16: Cost(123e6, 5.6e9)},
)
STL10 = PublishedResults(
    table=1,
    data_set="STL-10",
    encoder={"type": "resnet50", "stem": "stl"},
    threshold=-0.4,
    runs=1,
    simclr={1: (87.6, None), 4: (84.3, None), 8: (80.8, None), 16: (77.8, None)},
    subsampled={1: (86.7, None), 4: (82.6, None), 8: (79.7, None), 16: (78.8, None)},
    costs={1: Cost(17.1e9, 16.7e9), 4: Cost(4.65e9, 9.7e9), 8: Cost(2.63e9, 7.0e9),
           16: Cost(1.69e9, 6.1e9)},
)
FASHION_MNIST = PublishedResults(
    table=2,
    data_set="Fashion-MNIST",
    encoder={"type": "resnet18", "stem": "small"},
    threshold=0.3,
    runs=5,
    simclr={1: (91.3, 0.1), 8: (87.2, 0.3)},
    subsampled={1: (90.3, 0.2), 8: (88.2, 0.3)},
    costs={},
)
RESULTS = (CIFAR10, STL10, FASHION_MNIST)
