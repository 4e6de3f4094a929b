"""Logistic regression on cached features, and the features themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pretrain.errors import RunFailedError
from pretrain.eval import logistic
from pretrain.eval.data import CentreView
from pretrain.eval.features import extract_features, extract_session
from pretrain.eval.logistic import (
    PENALTIES,
    CachedLinearProbe,
    accuracy,
    choose_penalty,
    fit_logistic_regression,
    moments,
    principal_directions,
)
from tests.pretrain.eval.drawn import PixelFeatures, drawn_data, drawn_session
from tests.pretrain.processes import run_in_processes


def standardised(points):
    """Points with mean 0 and deviation 1."""
    mean, std = moments(points)
    return (points - mean) / std


def fit(points, labels, classes, penalty):
    """Logistic regression on standardised points."""
    x = standardised(points)
    return fit_logistic_regression(x, labels, classes, penalty, principal_directions(x))


def clusters(count: int, classes: int, width: int, spread: float, dtype=torch.float32):
    """Points ``(count, width)`` about one random centre a class, with an offset and scales to be standardised."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    labels = torch.arange(count) % classes
    points = centres[labels] + spread * torch.randn(count, width, generator=generator, dtype=torch.float64)
    return (points * torch.logspace(-3, 3, width, dtype=torch.float64) + 7).to(dtype), labels


def test_separable_features_are_learned():
    """100% of training and of unseen points."""
    points, labels = clusters(400, classes=7, width=16, spread=0.1)
    x = standardised(points)
    model = fit_logistic_regression(x[:200], labels[:200], 7, 1e-4, principal_directions(x[:200]))
    assert accuracy(model, x[:200], labels[:200], 7) == (100.0, 100.0)
    assert accuracy(model, x[200:], labels[200:], 7) == (100.0, 100.0)


def correlated(count: int, classes: int, width: int):
    """Features as networks have them: rectified, overlapping, and of few dimensions with variances far apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width // 2, generator=generator)
    hidden = 0.35 * centres[labels] + torch.randn(count, width // 2, generator=generator)
    hidden = hidden * torch.arange(1, width // 2 + 1) ** -1.2
    x = torch.relu(hidden @ torch.randn(width // 2, width, generator=generator) + 1)
    return x + 1e-3 * torch.randn(count, width, generator=generator), labels


def optimum_by_newton(fitted, x, labels, penalty):
    """The objective in float64 with a fit's weights, and at its optimum, which Newton's method reaches from there."""
    x, shape = x.double(), fitted.weight.shape

    def objective(flat):
        weight, bias = flat[: shape.numel()].view(shape), flat[shape.numel() :]
        return F.cross_entropy(x @ weight.T + bias, labels) + penalty / 2 * weight.square().sum()

    flat = torch.cat([fitted.weight.double().flatten(), fitted.bias.double()])
    for _ in range(3):
        gradient = torch.func.grad(objective)(flat)
        # lstsq: the same number added to all biases changes nothing
        flat = flat - torch.linalg.lstsq(torch.func.hessian(objective)(flat), gradient, driver="gelsd").solution
    assert torch.func.grad(objective)(flat).abs().max() < 1e-12
    return objective(torch.cat([fitted.weight.double().flatten(), fitted.bias.double()])).item(), objective(flat).item()


@pytest.mark.parametrize("penalty", [1e-3, 1e-5])
def test_correlated_features_reach_the_optimum(penalty):
    """In float32, to five digits of the objective, and in tens of iterations, where plain L-BFGS takes hundreds."""
    points, labels = correlated(1000, classes=4, width=48)
    x = standardised(points)
    assert torch.linalg.cond(x.T @ x) > 1e3
    fitted = fit(points, labels, 4, penalty)
    assert fitted.converged and fitted.iterations <= 100
    loss, optimum = optimum_by_newton(fitted, x, labels, penalty)
    assert loss == pytest.approx(optimum, rel=1e-5)


def test_where_a_fit_starts_does_not_matter():
    """From zero, and from another penalty's optimum on other rows: the same classifier."""
    points, labels = correlated(1000, classes=4, width=32)
    x = standardised(points)
    directions = principal_directions(x)
    cold = fit_logistic_regression(x, labels, 4, 1e-3, directions)
    other = fit_logistic_regression(x, labels.masked_fill(torch.arange(1000) % 3 == 0, -1), 4, 1e-1, directions)
    warm = fit_logistic_regression(x, labels, 4, 1e-3, directions, other)
    torch.testing.assert_close(warm.weight, cold.weight, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(other.weight, cold.weight, rtol=1e-3, atol=1e-3)


def test_rows_without_labels_are_left_out(monkeypatch):
    """The fit is that of the other rows alone, whatever the size of the chunks."""
    points, labels = clusters(100, classes=3, width=5, spread=1.0, dtype=torch.float64)
    x, kept = standardised(points), torch.arange(100) % 4 > 0
    directions = principal_directions(x)
    expected = fit_logistic_regression(x[kept], labels[kept], 3, 1e-2, directions)
    monkeypatch.setattr(logistic, "CHUNK_ELEMENTS", 21)
    found = fit_logistic_regression(x, labels.masked_fill(~kept, -1), 3, 1e-2, directions)
    torch.testing.assert_close(found.weight, expected.weight, rtol=1e-6, atol=1e-8)
    assert accuracy(found, x, labels.masked_fill(~kept, -1), 3) == accuracy(expected, x[kept], labels[kept], 3)


class LargestAllocation(TorchDispatchMode):
    """The bytes of the largest storage that an operation makes while it is active."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        storages = [t.untyped_storage() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.largest = max([self.largest, *(s.nbytes() for s in storages if s.data_ptr() not in known)])
        return out


def test_features_are_not_copied(monkeypatch):
    """Standardised in place and read in chunks: nothing near their size is made, from the moments to the accuracy."""
    x, labels = correlated(4096, classes=3, width=32)
    monkeypatch.setattr(logistic, "CHUNK_ELEMENTS", 4096)
    with LargestAllocation() as allocations:
        mean, std = moments(x)
        x.sub_(mean).div_(std)
        directions = principal_directions(x)
        _, fits = choose_penalty(x, labels, 3, (1e-1,), 0, directions)
        accuracy(fits[1e-1], x, labels, 3)
    assert allocations.largest < x.untyped_storage().nbytes() / 8


def test_moments_do_not_depend_on_chunks(monkeypatch):
    """Numpy's mean and deviation; features that are not finite are refused."""
    points, _ = clusters(50, classes=3, width=5, spread=1.0)
    monkeypatch.setattr(logistic, "CHUNK_ELEMENTS", 35)
    mean, std = moments(points)
    np.testing.assert_allclose(mean, points.double().numpy().mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, points.double().numpy().std(0), rtol=1e-6)
    points[3, 2] = torch.nan
    with pytest.raises(RunFailedError, match="features are not finite"):
        moments(points)


@pytest.mark.parametrize("penalty", [1e-1, 1e-4])
def test_the_optimum_has_no_gradient(penalty):
    """The objective's gradient written out in float64, on overlapping clusters."""
    points, labels = clusters(300, classes=4, width=6, spread=1.5, dtype=torch.float64)
    model = fit(points, labels, 4, penalty)
    x = ((points - points.mean(0)) / points.std(0, correction=0)).numpy()
    scores = np.exp(x @ model.weight.numpy().T + model.bias.numpy())
    residual = scores / scores.sum(1, keepdims=True) - np.eye(4)[labels.numpy()]
    assert np.abs(residual.T @ x / 300 + penalty * model.weight.numpy()).max() < 1e-5
    assert np.abs(residual.mean(0)).max() < 1e-5


def test_float32_reaches_float64s_optimum():
    """The precision of the features does not matter to three digits."""
    points, labels = clusters(300, classes=4, width=6, spread=1.5, dtype=torch.float64)
    exact = fit(points, labels, 4, 1e-3)
    rough = fit(points.float(), labels, 4, 1e-3)
    torch.testing.assert_close(rough.weight.double(), exact.weight, rtol=1e-3, atol=1e-3)


def test_features_that_do_not_vary_do_no_harm():
    """Dead channels, and constants that float32 cannot average exactly, keep a deviation of 1."""
    points, labels = clusters(100, classes=2, width=3, spread=0.1)
    dead = torch.cat([points, torch.zeros(100, 1), torch.full((100, 1), 0.1)], dim=1)
    _, std = moments(dead)
    assert std[3:].tolist() == [1.0, 1.0]
    assert accuracy(fit(dead, labels, 2, 1e-3), standardised(dead), labels, 2)[0] == 100.0


def test_the_penalty_is_chosen_on_held_out_images():
    """Far more dimensions than images and much noise call for a strong penalty, tight clusters for none in particular."""
    noisy, labels = clusters(80, classes=2, width=200, spread=8.0)
    candidates = (1e1, 1e-1, 1e-7)
    noisy = standardised(noisy)
    chosen, fits = choose_penalty(noisy, labels, 2, candidates, 0, principal_directions(noisy))
    assert chosen in candidates and chosen > 1e-7
    assert list(fits) == [1e1, 1e-1, 1e-7] and all(each.converged for each in fits.values())
    tight, labels = clusters(80, classes=2, width=5, spread=0.01)
    tight = standardised(tight)
    directions = principal_directions(tight)
    assert choose_penalty(tight, labels, 2, candidates, 0, directions)[0] == 1e1  # all are right: the strongest wins
    assert choose_penalty(tight[:2], labels[:2], 2, candidates, 0, directions) == (1e1, {})  # one image a class


def test_a_fit_that_does_not_converge_is_told(monkeypatch):
    """In the result of every stage, and in a warning that names the penalty."""
    told = []
    monkeypatch.setattr(logistic, "print_log", lambda message, **_: told.append(message))
    session, probe = replace(drawn_session(), stages=("res2",)), CachedLinearProbe(batch_size=8)
    converged = probe.run(session).stages
    assert all(stage["converged"] for stage in converged.values())
    assert not [message for message in told if "not converged" in message]
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 10)
    stages = probe.run(session).stages
    assert not any(stage["converged"] for stage in stages.values())
    assert stages["res2"]["iterations"] == 10 * (len(PENALTIES) + 1) < converged["res2"]["iterations"]
    assert "logistic regression with penalty 0.1 has not converged in 10 iterations" in told


@pytest.mark.slow
def test_the_probe_on_an_encoder():
    """Every stage has accuracies and its penalty, and colours are learned."""
    outcome = CachedLinearProbe(batch_size=8).run(drawn_session())
    assert list(outcome.stages) == ["res2", "res3", "res4", "res5"]
    assert outcome.stages["res2"]["top1"] == 100.0
    assert outcome.stages["res2"]["penalty"] in CachedLinearProbe().penalties
    assert outcome.corrupt == dict(train=0, test=0)
    with pytest.raises(ValueError, match="penalty is 0; it must be above 0"):
        CachedLinearProbe(penalties=(0,))


def extract_pixels(broken: int):
    """Features of 101 images in this process's share of the work, gathered."""
    dataset = drawn_data(train=101, broken=[broken]).train_views(CentreView(16))
    found = extract_features(PixelFeatures(), dataset, 8, 0, torch.device("cpu"))
    return found.features["grid"].numpy(), found.labels.numpy(), found.corrupt


def test_features_keep_the_sets_order():
    """Row i is image i; an image that cannot be decoded has no row."""
    features, labels, corrupt = extract_pixels(broken=50)
    dataset = drawn_data(train=101).train_views(CentreView(16))
    kept = np.delete(np.arange(101), 50)
    images = torch.stack([torch.from_numpy(np.asarray(dataset.source.load(i))).permute(2, 0, 1) for i in kept])
    np.testing.assert_allclose(features, PixelFeatures()(images)["grid"].numpy(), rtol=1e-6)
    assert labels.tolist() == dataset.labels[kept].tolist()
    assert corrupt == 1


def extract_in_process():
    """Features of 101 images, and how many this process ran at once with a batch of 8 for all processes together."""
    session, sizes = drawn_session(drawn_data(train=16, test=2)), []
    session.encoder.conv1.register_forward_pre_hook(lambda _, images: sizes.append(len(images[0])))
    extract_session(session, 8)
    return extract_pixels(50), max(sizes)


@pytest.mark.slow
def test_processes_share_the_extraction(tmp_path):
    """Two processes with 101 images, one of them broken, gather what one process has, in batches of half the size."""
    expected, at_once = extract_in_process()
    assert at_once == 8
    for (features, labels, corrupt), at_once in run_in_processes(extract_in_process, 2, tmp_path):
        assert at_once == 4
        np.testing.assert_allclose(features, expected[0], rtol=1e-6)
        assert labels.tolist() == expected[1].tolist()
        assert corrupt == 1
