"""NT-Xent against a transcription of the formula in float64, and over two processes."""

from __future__ import annotations

import math
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pretrain.objectives import NTXent


def transcription(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """LoCo, section 3.1, eq. 1, over all rows, term by term."""
    n = len(z) // 2
    q = [v / v.norm() for v in z]
    total = 0.0
    for i in range(2 * n):
        positive = (i + n) % (2 * n)
        terms = {k: torch.exp(q[i] @ q[k] / temperature) for k in range(2 * n) if k != i}
        total = total - torch.log(terms[positive] / sum(terms.values()))
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_and_gradient_equal_the_formula(temperature):
    """2N - 2 negatives, self excluded, mean over both views of every image."""
    z = torch.randn(12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss, _ = NTXent(temperature)(z)
    expected = transcription(z, temperature)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    (found,) = torch.autograd.grad(loss, z)
    (reference,) = torch.autograd.grad(expected, z)
    torch.testing.assert_close(found, reference, rtol=1e-10, atol=1e-12)


def test_accuracy_counts_rows_whose_positive_is_nearest():
    """Two images with identical views and one whose second view points elsewhere."""
    views = torch.eye(4)[:3]
    other = torch.stack([views[0], views[1], torch.eye(4)[3]])
    other[2] += 0.9 * views[0]
    _, metrics = NTXent()(torch.cat([views, other]))
    assert metrics["accuracy"].item() == pytest.approx(4 / 6)


def test_float32_under_autocast():
    """A loss in bfloat16 would have three digits; this one has seven."""
    z = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    plain, _ = NTXent()(z)
    with torch.autocast("cpu", torch.bfloat16):
        autocast, _ = NTXent()(z)
    assert autocast.dtype == torch.float32
    assert autocast.item() == plain.item()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NTXent(0.0), "temperature is 0.0"),
        (lambda: NTXent()(torch.randn(3, 4)), "3 projections"),
        (lambda: NTXent()(torch.randn(2, 4)), "single image"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    """The offending value is in the message."""
    with pytest.raises(ValueError, match=message):
        make()


def test_uninformative_projections_cost_log_of_the_choices():
    """Identical projections: every one of the 2N - 1 others is equally likely."""
    loss, _ = NTXent()(torch.ones(10, 3))
    assert loss.item() == pytest.approx(math.log(9), rel=1e-6)


def _process(rank: int, file: str, inputs: torch.Tensor, weight: torch.Tensor, queue) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    mine = inputs[:, rank * 3 : (rank + 1) * 3].flatten(0, 1)  # views of this rank's images
    weight = weight.clone().requires_grad_()
    loss, _ = NTXent(0.5)(mine @ weight)
    loss.backward()
    grad = weight.grad / 2  # what DDP's averaging makes of the processes' gradients
    dist.all_reduce(grad)
    dist.all_reduce(loss.data)
    queue.put((rank, loss.item() / 2, grad.numpy()))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_global_loss_and_gradient(tmp_path):
    """Rank-asymmetric data: averaged over ranks, loss and gradient are those of one process with the whole batch."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 6, 5, dtype=torch.float64, generator=generator)
    inputs[:, 3:] *= 3
    weight = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    processes = mp.spawn(_process, (str(tmp_path / "rendezvous"), inputs, weight, queue), nprocs=2, join=False)
    results = [queue.get() for _ in range(2)]
    while not processes.join():
        pass

    single = weight.clone().requires_grad_()
    loss = transcription(inputs.flatten(0, 1) @ single, 0.5)
    loss.backward()
    for _, found, grad in results:
        assert found == pytest.approx(loss.item(), rel=1e-12)
        torch.testing.assert_close(torch.from_numpy(grad), single.grad, rtol=1e-10, atol=1e-12)
