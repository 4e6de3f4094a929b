"""Dimensional collapse of a linear model, and how subsampling prevents it (Subsampling, section 3.2 and figure 1a).

Points are standard normal; their second views have noise added on the last half of the dimensions. A square matrix maps both
to representations, of which NT-Xent sees the directions alone. Contrasting all pairs, gradient descent gives up the noisy
dimensions; contrasting only pairs that are similar already, it may come to rest before.

What the paper leaves open is chosen so that descent can come to rest: both views of every point are drawn once, and every
step takes all of them. Then a threshold high enough has an equilibrium with all dimensions (eq. 3): no kept positive has a
kept negative, and loss and gradient are exactly 0. Fresh views in every step would keep bringing up further kept negatives.
At lower thresholds the gradient need not vanish, as pairs cross the threshold at every step and the loss jumps there; so
rest shows in the singular values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.objectives import NTXent
from pretrain.results.formats import MARKDOWN, markdown_table

PLAIN = "none"  # how results name the run without a threshold
COLLAPSED = 1e-2  # a singular value below, of a largest of 1, is a dimension given up
LOSS_WINDOW = 50  # steps in each of the two mean losses
REST_WINDOW = 100  # steps between two looks at the spectrum
REST_CHANGE = 0.01  # of every singular value from one look to the next: less is rest
NEGLIGIBLE = 1e-6  # of a largest singular value of 1: what float32's rounding makes of 0 is less, and keeps changing


@dataclass(frozen=True)
class ToyProblem:
    """Data and training of the toy model.

    Attributes:
        dim: D, dimensions of the points and of the representations, even; the last half is noisy.
        sigma: standard deviation of the second views' noise; the points' own is 1.
        num_points: N, of two views each; all are in every batch.
        steps: of gradient descent at most; at rest it ends before.
        lr: of gradient descent. With a threshold there are many equilibria, and near the transition to collapse
            it decides, as the seed does, which of them is reached.
        temperature: tau of the loss.
        seed: of points, noise and start.
    """

    dim: int = 16
    sigma: float = 1.5
    num_points: int = 256
    steps: int = 1000
    lr: float = 3.0
    temperature: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 2 or self.dim % 2:
            raise ValueError(f"dim is {self.dim}; half of the dimensions are noisy, so it must be even and at least 2")
        if self.num_points < 2 or self.steps < 1:
            raise ValueError(f"num_points is {self.num_points} and steps is {self.steps}; at least 2 and 1 are needed")


@dataclass(frozen=True)
class ToyResult:
    """What training came to.

    Attributes:
        singular_values: of the representations' covariance, descending from 1.
        kept_positive: share of the positive pairs that the threshold keeps at the end, 0 to 1.
        kept_negative: share of the negative pairs, likewise.
        loss_first: mean loss of the first 50 steps, in nats.
        loss_last: mean loss of the last 50 steps.
        steps: taken until rest, or until there were no more to take.
        change: of the singular values over the last 100 steps, see :class:`Training`.
    """

    singular_values: list[float]
    kept_positive: float
    kept_negative: float
    loss_first: float
    loss_last: float
    steps: int
    change: float | None

    @property
    def collapsed(self) -> int:
        """Number of dimensions given up."""
        return _collapsed(self.singular_values)


@dataclass(frozen=True)
class Training:
    """How gradient descent went.

    Attributes:
        losses: before each step, in nats; where no gradient was left, the last one stands for all further steps.
        steps: that were taken.
        change: the largest relative change of a singular value (those below 1e-6 of the largest left out) over the last 100
            steps: less than 0.01 is rest, 0 where no gradient was left; None for fewer steps.
    """

    losses: list[float]
    steps: int
    change: float | None


def compare_thresholds(problem: ToyProblem, thresholds: Iterable[float]) -> dict[str, ToyResult]:
    """Trains from one start on the same views without a threshold (``"none"``) and with each (``"0.0"``).

    Raises:
        ValueError: a threshold is outside [-1, 1], or the temperature is not positive.
    """
    losses = {name: NTXent(problem.temperature, threshold)
              for name, threshold in {PLAIN: None, **{str(float(value)): value for value in thresholds}}.items()}
    return {name: _result(problem, loss) for name, loss in losses.items()}


def _result(problem: ToyProblem, loss: NTXent) -> ToyResult:
    views, weight = initial_state(problem)
    training = train(weight, views, loss, problem)
    with torch.no_grad():
        _, metrics = loss(views @ weight.T)
        singular_values = spectrum(views @ weight.T).tolist()
    return ToyResult(
        singular_values,
        kept_positive=float(metrics.get("kept_positive", 1)),  # without a threshold all are kept
        kept_negative=float(metrics.get("kept_negative", 1)),
        loss_first=fmean(training.losses[:LOSS_WINDOW]),
        loss_last=fmean(training.losses[-LOSS_WINDOW:]),
        steps=training.steps,
        change=training.change,
    )


def initial_state(problem: ToyProblem) -> tuple[Tensor, Tensor]:
    """Views ``(2N, D)``, first ones before second ones, and orthogonal weights ``(D, D)`` that require their gradient."""
    generator = torch.Generator().manual_seed(problem.seed)
    points = torch.randn(problem.num_points, problem.dim, generator=generator)  # (N, D)
    noise = problem.sigma * torch.randn(problem.num_points, problem.dim // 2, generator=generator)  # (N, D/2)
    second = points + F.pad(noise, (problem.dim // 2, 0))  # (N, D)
    weight, _ = torch.linalg.qr(torch.randn(problem.dim, problem.dim, generator=generator))
    return torch.cat([points, second]), weight.requires_grad_()


def train(weight: Tensor, views: Tensor, loss: NTXent, problem: ToyProblem) -> Training:
    """Changes ``weight`` ``(D, D)`` by gradient descent over all views ``(2N, D)`` until it is at rest, or steps run out."""
    optimizer = torch.optim.SGD([weight], lr=problem.lr)
    losses: list[float] = []
    change, seen = None, spectrum(views @ weight.detach().T)
    for step in range(problem.steps):
        value, _ = loss(views @ weight.T)
        optimizer.zero_grad()
        value.backward()
        losses.append(value.item())
        if not weight.grad.any():  # at rest for good
            return Training(losses + losses[-1:] * (problem.steps - len(losses)), step, 0.0)
        optimizer.step()
        if (step + 1) % REST_WINDOW == 0:
            before, seen = seen, spectrum(views @ weight.detach().T)
            change = largest_change(before, seen)
            if change < REST_CHANGE:
                break
    return Training(losses, len(losses), change)


def largest_change(before: Tensor, after: Tensor) -> float:
    """Of singular values ``(D,)`` relative to the largest, as a share of what they were; negligible ones count as 1e-6."""
    before, after = before.clamp_min(NEGLIGIBLE), after.clamp_min(NEGLIGIBLE)
    return ((after - before).abs() / before).max().item()


def spectrum(representations: Tensor) -> Tensor:
    """Singular values ``(D,)`` of the covariance of ``(2N, D)`` normalised representations, descending from 1."""
    covariance = torch.cov(F.normalize(representations, dim=1).T)  # (D, D)
    singular_values = torch.linalg.svdvals(covariance)
    return singular_values / singular_values[0]


def format_table(problem: ToyProblem, results: Mapping[str, ToyResult]) -> str:
    """A column of Markdown for every threshold, and one before them for where all of them start."""
    views, weight = initial_state(problem)
    start = spectrum(views @ weight.T.detach()).tolist()
    runs = list(results.values())
    spectra = [start, *(run.singular_values for run in runs)]
    rows = [[f"singular value {number}", *(f"{value:.2g}" for value in values)]
            for number, values in enumerate(zip(*spectra, strict=True), start=1)]
    rows.append([f"**below {COLLAPSED:g}**", *(f"**{_collapsed(values)} of {problem.dim}**" for values in spectra)])
    for title, cell in (
        ("positives kept", lambda run: f"{run.kept_positive:.1%}"),
        ("negatives kept", lambda run: f"{run.kept_negative:.3%}"),
        ("loss, first steps", lambda run: f"{run.loss_first:.3g}"),
        ("loss, last steps", lambda run: f"{run.loss_last:.3g}"),
        ("steps", lambda run: str(run.steps)),
        (f"change in the last {REST_WINDOW} steps",
         lambda run: MARKDOWN.missing if run.change is None else f"{run.change:.1%}"),
    ):
        rows.append([title, MARKDOWN.missing, *map(cell, runs)])
    return markdown_table(["threshold", "(start)", *results], rows).rstrip("\n")


def _collapsed(singular_values: Iterable[float]) -> int:
    return sum(value < COLLAPSED for value in singular_values)
