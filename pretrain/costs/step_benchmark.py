"""Real training steps of several methods side by side: their time, and on a CUDA device the allocator's peak."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from pretrain.costs.memory import build_learner, shown_methods, train_step, views_shape
from pretrain.costs.methods import BASELINE, CHECKPOINTED
from pretrain.learner import LocalContrastiveLearner

ROUNDS = 12
BASELINE_RUN = "baseline"


def add_measurements(
    report: dict, encoder: str | Mapping, methods: Mapping[str, str | Mapping], memory: bool, seconds: bool
) -> None:
    """Adds to the report of :func:`pretrain.costs.memory.compare_methods` what real steps take on this machine.

    Steps run on the CUDA device if there is one. For the time, methods take turns step by step, every other round backwards;
    a ratio is the median over the rounds of ratios within a round, so that a machine that slows down slows both.

    Args:
        report: the report; ``seconds`` and ``time_ratio``, ``measured_bytes`` and ``measured_saving_ratio`` are added to
            its methods. The ratios are to SimCLR without recomputation.
        encoder: name or config of the encoder.
        methods: those of the report.
        memory: whether the allocator's peak is measured.
        seconds: whether the time is measured.

    Raises:
        ValueError: ``memory`` without a CUDA device.
    """
    if memory and not torch.cuda.is_available():
        raise ValueError("measuring memory needs a CUDA device and there is none; leave --measured out for the exact count")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runs = {name: (method, report["recompute"]) for name, method in shown_methods(methods).items()}
    aliases = {name: BASELINE_RUN if run == (BASELINE, "none") else name for name, run in runs.items()}
    runs = {BASELINE_RUN: (BASELINE, "none"), **{name: run for name, run in runs.items() if aliases[name] == name}}

    def step_of(run: str) -> Step:
        method, recompute = runs[run]
        learner = build_learner(encoder, method, recompute, report["autocast"]).to(device)
        views = torch.randint(0, 256, views_shape(report["batch_size"], report["input_size"]), dtype=torch.uint8)
        return Step(learner, views.to(device), checkpointed=method == CHECKPOINTED)

    peaks = {run: step_of(run).peak_bytes() for run in runs} if memory else {}
    times = _alternate({run: step_of(run) for run in runs}) if seconds else {}
    for name, run in aliases.items():
        row = report["methods"][name]
        if memory:
            row |= {"measured_bytes": peaks[run], "measured_saving_ratio": peaks[BASELINE_RUN] / peaks[run]}
        if seconds:
            ratios = [own / other for own, other in zip(times[run], times[BASELINE_RUN], strict=True)]
            row |= {"seconds": statistics.median(times[run]), "time_ratio": statistics.median(ratios)}


class Step:
    """A training step that can be repeated."""

    def __init__(self, learner: LocalContrastiveLearner, views: Tensor, checkpointed: bool) -> None:
        self._learner, self._data, self._checkpointed = learner, {"views": views}, checkpointed
        self.seconds()  # the first one loads kernels and picks algorithms

    def seconds(self) -> float:
        """Makes the step and returns how long it took."""
        self._learner.zero_grad(set_to_none=True)
        self._wait()
        start = time.perf_counter()
        train_step(self._learner, self._data, self._checkpointed)
        self._wait()
        return time.perf_counter() - start

    def peak_bytes(self) -> int:
        """Makes the step and returns what the CUDA allocator held at its peak; nothing else may be on the device."""
        torch.cuda.reset_peak_memory_stats()
        self.seconds()
        return torch.cuda.max_memory_allocated()

    def _wait(self) -> None:
        if self._data["views"].is_cuda:
            torch.cuda.synchronize()


def _alternate(steps: Mapping[str, Step]) -> dict[str, list[float]]:
    """Seconds of every step in every round."""
    times: dict[str, list[float]] = {run: [] for run in steps}
    for index in range(ROUNDS):
        for run in steps if index % 2 == 0 else reversed(steps):
            times[run].append(steps[run].seconds())
    return times
