"""Subsampled NT-Xent against a transcription of the formula in float64, and over two processes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from pretrain.distributed import comm
from pretrain.objectives import NTXent
from tests.pretrain.processes import run_in_processes

TEMPERATURE = 0.5
OPTIONS = [dict(zip(("threshold", "on", "average_over"), values, strict=True)) for values in
           itertools.product([-0.2, 0.0, 0.3], ["both", "positives", "negatives"], ["all", "kept"])]


def transcription(z: Tensor, threshold: float, on: str = "both", average_over: str = "all") -> tuple[Tensor, float, float]:
    """Subsampling, eq. 4 and 5, over all rows, term by term: the loss, and the shares of positives and negatives kept."""
    n = len(z) // 2
    q = [v / v.norm() for v in z]
    total, positives, negatives = 0.0 * z.sum(), 0, 0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        denominator = 0.0
        for k in range(2 * n):
            alpha = 1 if k == j or on == "positives" else int(q[i] @ q[k] >= threshold)
            if k != i:
                denominator = denominator + alpha * torch.exp(q[i] @ q[k] / TEMPERATURE)
                negatives += alpha * (k != j)
        alpha = 1 if on == "negatives" else int(q[i] @ q[j] >= threshold)
        total = total - alpha * torch.log(torch.exp(q[i] @ q[j] / TEMPERATURE) / denominator)
        positives += alpha
    divisor = 2 * n if average_over == "all" else max(positives, 1)
    return total / divisor, positives / (2 * n), negatives / (2 * n * (2 * n - 2))


def projections(n: int = 6, dimensions: int = 5) -> Tensor:
    """Two views ``(2n, D)`` float64 of ``n`` images; every threshold keeps some positives and some negatives, not all."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, dimensions, dtype=torch.float64, generator=generator)
    noise = torch.randn(2, n, dimensions, dtype=torch.float64, generator=generator)
    return (images + 2 * noise).flatten(0, 1)


def opposite_views(dtype: torch.dtype = torch.float64) -> Tensor:
    """Every image's second view points away from its first."""
    first = torch.randn(5, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return torch.cat([first, -first]).requires_grad_()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_loss_and_gradient_equal_the_formula(options):
    """Positives, negatives or both, over all or the kept: value, gradient and shares."""
    z = projections().requires_grad_()
    loss, metrics = NTXent(TEMPERATURE, **options)(z)
    expected, positives, negatives = transcription(z, **options)
    assert 0 < positives < 1 or options["on"] == "negatives"  # or the case would prove little
    assert 0 < negatives < 1 or options["on"] == "positives"
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    (found,) = torch.autograd.grad(loss, z)
    (reference,) = torch.autograd.grad(expected, z)
    torch.testing.assert_close(found, reference, rtol=1e-10, atol=1e-12)
    assert metrics["kept_positive"].item() == pytest.approx(positives, rel=1e-12)
    assert metrics["kept_negative"].item() == pytest.approx(negatives, rel=1e-12)


def test_equation_5_is_the_default():
    """Only temperature and threshold need to be said."""
    z = projections()
    expected, _, _ = transcription(z, 0.3, "both", "all")
    assert NTXent(TEMPERATURE, 0.3)(z)[0].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("on", ["both", "positives", "negatives"])
def test_no_threshold_is_the_plain_loss_to_the_bit(on):
    """Loss, gradient and metrics in float32, whatever the other options; and all pairs kept cost as much."""
    z = torch.randn(64, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    plain, plain_metrics = NTXent(0.1)(z)
    loss, metrics = NTXent(0.1, None, on)(z)
    assert torch.equal(loss, plain)
    assert torch.equal(*(torch.autograd.grad(each, z)[0] for each in (loss, plain)))
    assert metrics == plain_metrics and list(metrics) == ["accuracy"]
    kept, metrics = NTXent(0.1, -1.0, on)(z)
    assert kept.item() == pytest.approx(plain.item(), rel=1e-6)
    assert metrics == {**plain_metrics, "kept_positive": 1, "kept_negative": 1}


def test_pairs_at_the_threshold_are_kept():
    """Eq. 4 has "at least": right angles are kept at 0; and at -1 opposite vectors are, also where rounding goes below."""
    _, metrics = NTXent(TEMPERATURE, 0.0)(torch.eye(8))
    assert metrics["kept_positive"] == metrics["kept_negative"] == 1
    z = torch.randn(256, 128, generator=torch.Generator().manual_seed(0))
    opposite = torch.cat([z, -z])
    loss, metrics = NTXent(TEMPERATURE, -1.0)(opposite)
    assert metrics["kept_positive"] == metrics["kept_negative"] == 1
    assert loss.item() == pytest.approx(NTXent(TEMPERATURE)(opposite)[0].item(), rel=1e-5)


def test_accuracy_is_among_all_pairs():
    """It stays comparable with that of the plain loss: dropped negatives may still be the nearest."""
    z = projections()
    _, expected = NTXent(TEMPERATURE)(z)
    _, metrics = NTXent(TEMPERATURE, 0.999)(z)
    assert 0 < metrics["accuracy"] < 1
    assert metrics["accuracy"] == expected["accuracy"]


@pytest.mark.parametrize("average_over", ["all", "kept"])
@pytest.mark.parametrize("on", ["both", "positives"])
def test_no_positive_kept(on, average_over):
    """The loss is exactly 0, and so is its gradient."""
    z = opposite_views()
    loss, metrics = NTXent(TEMPERATURE, 0.0, on, average_over)(z)
    loss.backward()
    assert loss.item() == metrics["kept_positive"].item() == 0
    assert not z.grad.any()  # NaN would count


def test_no_negative_kept():
    """A positive that competes with nothing costs nothing and moves nothing; it is counted as kept."""
    z = torch.eye(4, dtype=torch.float64).repeat(2, 1).requires_grad_()
    loss, metrics = NTXent(TEMPERATURE, 0.5)(z)
    loss.backward()
    assert (loss.item(), metrics["kept_positive"].item(), metrics["kept_negative"].item()) == (0, 1, 0)
    assert not z.grad.any()


def test_dropped_positives_stay_in_the_denominator_of_a_loss_that_counts():
    """With negatives alone subsampled, opposite views cost the cross entropy among what is kept, which is above 0."""
    z = opposite_views()
    loss, metrics = NTXent(TEMPERATURE, 0.0, "negatives")(z)
    loss.backward()
    assert metrics["kept_positive"] == 1
    assert loss > math.log(2)  # some negative above 0 competes with every positive at -1
    assert z.grad.isfinite().all()


def test_divergence_is_not_hidden():
    """Projections that are no numbers are not taken for dissimilar ones: the run must be able to stop."""
    z = projections()
    z[3, 0] = float("nan")
    for options in (dict(threshold=0.0), dict(threshold=1.0, average_over="kept")):
        assert NTXent(TEMPERATURE, **options)(z)[0].isnan()


def test_float32_under_autocast():
    """Similarities in bfloat16 would lie on other sides of the threshold."""
    z = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    plain, plain_metrics = NTXent(TEMPERATURE, 0.05)(z)
    with torch.autocast("cpu", torch.bfloat16):
        loss, metrics = NTXent(TEMPERATURE, 0.05)(z)
    assert loss.dtype == torch.float32
    assert (loss, metrics) == (plain, plain_metrics)


@pytest.mark.parametrize("options, value", [
    (dict(threshold=1.01), "1.01"), (dict(threshold=-2), "-2"), (dict(threshold=float("nan")), "nan"),
    (dict(threshold=True), "True"), (dict(threshold="0.3"), "'0.3'"), (dict(threshold=0.0, on="positive"), "'positive'"),
    (dict(threshold=0.0, average_over="batch"), "'batch'"), (dict(threshold=0.0, temperature=0), "temperature is 0"),
])
def test_bad_arguments_are_refused(options, value):
    """The offending value is in the message."""
    with pytest.raises(ValueError, match=value):
        NTXent(**{"temperature": TEMPERATURE, **options})


def share_of_batch(inputs: Tensor, weight: Tensor) -> list[tuple[float, Tensor, dict[str, float]]]:
    """Per option this process's loss and shares and the weight's gradient, of its images of ``(2, N, D)`` inputs."""
    images = slice(comm.rank() * 3, comm.rank() * 3 + 3)
    results = []
    for options in OPTIONS:
        mine = weight.clone().requires_grad_()
        loss, metrics = NTXent(TEMPERATURE, **options)(inputs[:, images].flatten(0, 1) @ mine)
        loss.backward()
        results.append((loss.item(), mine.grad, {name: value.item() for name, value in metrics.items()}))
    return results


@pytest.mark.slow
@pytest.mark.parametrize("one_keeps_none", [False, True])
def test_two_processes_give_the_global_loss_and_gradient(tmp_path, one_keeps_none):
    """Rank-asymmetric data: averaged over ranks all is that of one process with the whole batch, whatever a rank keeps."""
    inputs = projections().view(2, 6, 5)
    inputs[:, 3:] *= 3
    if one_keeps_none:
        inputs[1, 3:] = -inputs[0, 3:]
    weight = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = run_in_processes(share_of_batch, 2, tmp_path, inputs, weight)
    for options, *of_ranks in zip(OPTIONS, *found, strict=True):
        (first, first_grad, first_metrics), (second, second_grad, second_metrics) = of_ranks
        single = weight.clone().requires_grad_()
        loss, positives, negatives = transcription(inputs.flatten(0, 1) @ single, **options)
        loss.backward()
        assert (first + second) / 2 == pytest.approx(loss.item(), rel=1e-12), options
        torch.testing.assert_close((first_grad + second_grad) / 2, single.grad, rtol=1e-10, atol=1e-12)
        for name, share in (("kept_positive", positives), ("kept_negative", negatives)):
            assert (first_metrics[name] + second_metrics[name]) / 2 == pytest.approx(share, rel=1e-12), options
        if one_keeps_none and options["on"] != "negatives":
            assert second_metrics["kept_positive"] == 0 < first_metrics["kept_positive"]
