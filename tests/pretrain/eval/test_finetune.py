"""Fine-tuning: it learns, changes the encoder, resumes exactly, and does the same in several processes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from pretrain.eval import training
from pretrain.eval.data import CentreView, evaluation_loader
from pretrain.eval.encoders import weights_sha256
from pretrain.eval.finetune import FineTuning, cosine
from tests.pretrain.eval.drawn import drawn_data, drawn_session
from tests.pretrain.processes import run_in_processes


def run(epochs: int = 2, **options):
    """Fine-tunes a small encoder; returns it and the outcome."""
    session = drawn_session(drawn_data(train=16, test=8, classes=2), **options)
    return session.encoder, FineTuning(epochs=epochs, batch_size=8, lr=0.01).run(session)


@pytest.mark.slow
def test_it_learns_and_changes_the_encoder():
    """The training loss falls, the test set is got right, and weights as well as batch norm statistics have moved."""
    session = drawn_session(drawn_data(train=16, test=8, classes=2))
    before = {name: value.clone() for name, value in session.encoder.state_dict().items()}
    method = FineTuning(epochs=5, batch_size=8, lr=0.01)
    model = method.classifier(session)
    untrained_loss = training_loss(model, session)
    outcome = method.train(model, session)
    assert training_loss(model, session) < 0.5 * untrained_loss
    assert outcome.stages["res5"]["top1"] == 100.0
    assert list(outcome.stages) == ["res5"]
    after = session.encoder.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in ("conv1.weight", "bn1.running_mean"))


@torch.no_grad()
def training_loss(model, session) -> float:
    """Mean cross entropy over the training set's test views, in eval mode."""
    ((images, labels),) = evaluation_loader(session.data.train_views(CentreView(16)), 16, 0)
    return F.cross_entropy(model.eval()(images)["res5"], labels).item()


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.4), (2.5, 0.2 * (1 + math.sqrt(0.5))), (5, 0.2), (10, 0)])
def test_the_learning_rate_follows_a_cosine(epoch, expected):
    """From the initial one to 0."""
    assert cosine(epoch, lr=0.4, epochs=10) == pytest.approx(expected, abs=1e-12)


def test_options_are_checked():
    """The default learning rate is in proportion to the batch."""
    assert FineTuning(batch_size=512).lr == pytest.approx(0.1)
    with pytest.raises(ValueError, match="weight_decay is -1; it must be at least 0"):
        FineTuning(weight_decay=-1)
    with pytest.raises(ValueError, match="batch size 1 is too small .* batch norm .* at least 2 images a process, 2 in all"):
        FineTuning(batch_size=1).run(drawn_session())


@pytest.mark.slow
def test_resume_is_exact(tmp_path, monkeypatch):
    """Encoder, classifier and momentum after an interruption are those of the undisturbed run."""
    whole, expected = run()
    file = tmp_path / "finetune.state.pth"
    with monkeypatch.context() as patch:
        save = training._save

        def save_and_stop(*args):
            save(*args)
            raise KeyboardInterrupt

        patch.setattr(training, "_save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run(state_file=file)
    assert torch.load(file, weights_only=True)["epoch"] == 1
    resumed, found = run(state_file=file, resume=True)
    assert weights_sha256(resumed) == weights_sha256(whole)
    assert found.stages == expected.stages


def tuned_weights() -> dict[str, torch.Tensor]:
    """The network after one epoch in float64, with this process's share of every batch."""
    session, method = drawn_session(drawn_data(train=16, test=8, classes=2)), FineTuning(epochs=1, batch_size=8, lr=0.01)
    model = method.classifier(session).double()
    method.train(model, session)
    return {name: value.detach().contiguous().numpy() for name, value in model.state_dict().items()}


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Batch norm over the global batch and averaged gradients: all is one process's."""
    expected = tuned_weights()
    for found in run_in_processes(tuned_weights, 2, tmp_path):
        for name, value in expected.items():
            torch.testing.assert_close(torch.from_numpy(found[name]), torch.from_numpy(value), rtol=1e-7, atol=1e-9)
