"""The toy model of dimensional collapse: what the paper's figure 1a shows, at equilibria."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pretrain.eval.collapse import (
    ToyProblem,
    Training,
    compare_thresholds,
    format_table,
    initial_state,
    largest_change,
    spectrum,
    train,
)
from pretrain.objectives import NTXent

SMALL = ToyProblem(dim=6, num_points=16, steps=50)


@pytest.fixture(scope="module")
def results():
    """The paper's sizes: without a threshold, with one that prevents collapse, and with one that drops nearly all."""
    return compare_thresholds(ToyProblem(steps=120), [0.8, 0.9])


def start_spectrum(problem: ToyProblem) -> list[float]:
    views, weight = initial_state(problem)
    return spectrum((views @ weight.T).detach()).tolist()


def test_noisy_dimensions_collapse_without_subsampling(results):
    """Eight of sixteen, the noisy ones, by far; all pairs count."""
    plain = results["none"]
    assert plain.collapsed == 8
    assert plain.singular_values[7] > 0.5 and plain.singular_values[8] < 1e-5
    assert (plain.kept_positive, plain.kept_negative) == (1, 1)
    assert plain.loss_last < plain.loss_first


def test_collapse_is_an_equilibrium():
    """Descent without a threshold ends at rest: what is left of the gradient, relative to the weights, is rounding."""
    problem = ToyProblem()
    views, weight = initial_state(problem)
    training = train(weight, views, NTXent(problem.temperature, None), problem)
    assert training.steps == len(training.losses) < 400 and training.change < 0.01
    loss, _ = NTXent(problem.temperature)(views @ weight.T)
    (gradient,) = torch.autograd.grad(loss, weight)
    assert gradient.norm() * weight.norm() < 1e-5


def test_subsampling_prevents_the_collapse(results):
    """All sixteen dimensions with at least a tenth of the positives kept, and not for want of training: loss and weights
    change until no kept positive has a kept negative, which is an equilibrium, for the loss is exactly 0.
    """
    subsampled = results["0.8"]
    assert subsampled.collapsed == 0
    assert subsampled.kept_positive >= 0.1
    assert 0 == subsampled.loss_last < subsampled.loss_first
    moved = np.abs(np.subtract(subsampled.singular_values, start_spectrum(ToyProblem())))
    assert moved.max() > 0.02


@pytest.mark.slow
def test_the_default_steps_reach_the_equilibrium():
    """A seed on which 200 steps are too few comes to rest, with all dimensions."""
    problem = ToyProblem(seed=1)
    views, weight = initial_state(problem)
    training = train(weight, views, NTXent(problem.temperature, 0.8), problem)
    assert 200 < training.steps < problem.steps and training.change == training.losses[-1] == 0
    assert (spectrum((views @ weight.T).detach()) > 0.1).all()


def test_a_threshold_too_high_proves_nothing(results):
    """Without a kept negative nothing is learned: the full spectrum is the start's."""
    untrained = results["0.9"]
    assert untrained.kept_negative < 1e-4
    assert untrained.loss_first == untrained.loss_last == 0
    assert untrained.singular_values == pytest.approx(start_spectrum(ToyProblem()))


def test_spectrum_is_that_of_the_covariance():
    """Against numpy in float64: eigenvalues of the covariance of normalised rows."""
    z = np.random.default_rng(0).normal(size=(40, 5)) * [3, 2, 1, 1, 0.1]
    eigenvalues = np.linalg.eigvalsh(np.cov(z / np.linalg.norm(z, axis=1, keepdims=True), rowvar=False))[::-1]
    assert spectrum(torch.from_numpy(z)).tolist() == pytest.approx(eigenvalues / eigenvalues[0], rel=1e-10)


def test_data_and_start():
    """Noise of the asked deviation on the last half of the second views alone; orthogonal weights; the seed decides."""
    views, weight = initial_state(ToyProblem(dim=6, num_points=4000, sigma=1.5))
    first, second = views.chunk(2)
    noise = second - first
    assert noise[:, :3].abs().max() == 0
    assert noise[:, 3:].std(dim=0).tolist() == pytest.approx([1.5] * 3, rel=0.05)
    assert torch.cov(first.T).tolist() == pytest.approx(np.eye(6), abs=0.08)
    torch.testing.assert_close(weight.T @ weight, torch.eye(6))
    again, other = (initial_state(ToyProblem(dim=6, num_points=4000, seed=seed)) for seed in (0, 1))
    assert all(map(torch.equal, (views, weight), again))
    assert not torch.equal(views, other[0]) and not torch.equal(weight, other[1])


def test_table_has_a_column_for_every_threshold():
    """Start, none and every threshold; a row for every singular value, the dimensions collapsed, shares and losses."""
    results = compare_thresholds(SMALL, [0.0, -0.5])
    lines = [line.strip("| ").split(" | ") for line in format_table(SMALL, results).splitlines()]
    assert lines[0] == ["threshold", "(start)", "none", "0.0", "-0.5"]
    assert {len(line) for line in lines} == {5}
    assert [line[0] for line in lines[2:]] == [
        *(f"singular value {number}" for number in range(1, 7)), "**below 0.01**", "positives kept", "negatives kept",
        "loss, first steps", "loss, last steps", "steps", "change in the last 100 steps",
    ]  # fmt: skip
    assert lines[8][2] == f"**{results['none'].collapsed} of 6**"
    assert lines[-2][2:] == ["50"] * 3 and lines[-1][1:] == ["–"] * 4, "fewer steps than a change is taken over"


def test_descent_stops_where_no_gradient_is_left():
    """Weights and loss stay what they are."""
    views, weight = initial_state(SMALL)
    start = weight.detach().clone()
    training = train(weight, views, NTXent(SMALL.temperature, 1.0), SMALL)
    assert training == Training([0.0] * SMALL.steps, 0, 0.0)
    assert torch.equal(weight, start)


def test_descent_that_is_not_at_rest_shows_its_change():
    """The steps run out while a singular value still falls; the change is that of two descents of a hundred steps more."""
    problem = ToyProblem(dim=6, num_points=16, steps=200, lr=0.02)
    loss, spectra = NTXent(problem.temperature, None), []
    for steps in (100, 200):
        views, weight = initial_state(problem)
        training = train(weight, views, loss, replace(problem, steps=steps))
        spectra.append(spectrum((views @ weight.T).detach()).numpy())
    assert training.steps == 200
    assert training.change == pytest.approx((np.abs(spectra[1] - spectra[0]) / spectra[0]).max(), rel=1e-5)
    assert training.change > 0.01


def test_negligible_singular_values_do_not_disturb_rest():
    """What rounding makes of zero changes at will."""
    assert largest_change(torch.tensor([1.0, 0.5, 1e-9]), torch.tensor([1.0, 0.6, 5e-8])) == pytest.approx(0.2)
    assert largest_change(torch.tensor([1.0, 1e-3]), torch.tensor([1.0, 1e-8])) == pytest.approx(0.999)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compare_thresholds(SMALL, [0.0, 1.5]), "threshold of NTXent is 1.5"),
        (lambda: ToyProblem(dim=15), "dim is 15"),
        (lambda: ToyProblem(num_points=1), "num_points is 1"),
    ],
)
def test_bad_values_are_refused(make, message):
    """The offending value is in the message."""
    with pytest.raises(ValueError, match=message):
        make()


def test_tool_prints_json_alone(run_tool):
    """The same as the package's; options reach the model."""
    problem = replace(SMALL, lr=0.5, temperature=0.2)
    finished = run_tool("analyze", "collapse", "--thresholds", 0.0, "-0.4", "--dim", 6, "--num-points", 16, "--steps", 50,
                        "--lr", 0.5, "--temperature", 0.2, "--format", "json")
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert list(found) == ["none", "0.0", "-0.4"]
    for name, result in compare_thresholds(problem, [0.0, -0.4]).items():
        assert found[name]["singular_values"] == pytest.approx(result.singular_values, abs=1e-4)
        assert found[name]["loss_last"] == pytest.approx(result.loss_last, rel=1e-4)
