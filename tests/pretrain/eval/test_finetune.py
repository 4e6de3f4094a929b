"""Fine-tuning: it learns, changes the encoder, resumes exactly, and does the same in several processes."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from pretrain.eval import probes
from pretrain.eval.features import weights_sha256
from pretrain.eval.finetune import cosine, fine_tuned_classifier, fine_tuning
from pretrain.eval.probes import StateFile, train_on_images
from tests.pretrain.eval.synthetic import small_features, synthetic_data
from tests.pretrain.processes import run_in_processes


def run(epochs: int = 2, state: StateFile | None = None):
    """Fine-tunes a small encoder; returns it and the results."""
    pooled, data = small_features(), synthetic_data(train=16, test=8, classes=2)
    stages, _ = fine_tuning(pooled, data, state, epochs=epochs, batch_size=8, lr=0.01, weight_decay=1e-4)
    return pooled.encoder, stages


@pytest.mark.slow
def test_it_learns_and_changes_the_encoder():
    """The test set is got right by the last stage alone, and weights as well as batch norm statistics have moved."""
    before = small_features().encoder.state_dict()
    encoder, stages = run(epochs=5)
    assert list(stages) == ["res5"] and stages["res5"]["top1"] == 100.0
    after = encoder.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in ("conv1.weight", "bn1.running_mean"))


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.4), (2.5, 0.2 * (1 + math.sqrt(0.5))), (5, 0.2), (10, 0)])
def test_the_learning_rate_follows_a_cosine(epoch, expected):
    """From the initial one to 0."""
    assert cosine(epoch, lr=0.4, epochs=10) == pytest.approx(expected, abs=1e-12)


def test_batch_norm_needs_two_images():
    """A process."""
    with pytest.raises(ValueError, match="batch size 1 is too small"):
        fine_tuned_classifier(small_features(), synthetic_data(), 1)


@pytest.mark.slow
def test_resume_is_exact(tmp_path, monkeypatch):
    """Encoder, classifier and momentum after an interruption are those of the undisturbed run."""
    whole, expected = run()
    file = tmp_path / "finetune.state.pth"
    with monkeypatch.context() as patch:
        save = probes._save

        def save_and_stop(*args):
            save(*args)
            raise KeyboardInterrupt

        patch.setattr(probes, "_save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run(state=StateFile(file, {}))
    assert torch.load(file, weights_only=True)["epoch"] == 1
    resumed, found = run(state=StateFile(file, {}, resume=True))
    assert weights_sha256(resumed) == weights_sha256(whole)
    assert found == expected


def tuned_weights() -> dict[str, torch.Tensor]:
    """The network after one epoch in float64, with this process's share of every batch."""
    data = synthetic_data(train=16, test=8, classes=2)
    model = fine_tuned_classifier(small_features(), data, 8).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    train_on_images(model, optimizer, partial(cosine, lr=0.01, epochs=1), data, epochs=1, batch_size=8)
    return {name: value.detach().contiguous().numpy() for name, value in model.state_dict().items()}


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Batch norm over the global batch and averaged gradients: all is one process's."""
    expected = tuned_weights()
    for found in run_in_processes(tuned_weights, 2, tmp_path):
        for name, value in expected.items():
            torch.testing.assert_close(torch.from_numpy(found[name]), torch.from_numpy(value), rtol=1e-7, atol=1e-9)
