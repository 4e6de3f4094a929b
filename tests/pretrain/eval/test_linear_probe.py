"""The paper's linear probe: schedule, heads that do not see each other, resume, and several processes."""

from __future__ import annotations

import math
import re
from functools import partial

import numpy as np
import pytest
import torch

from pretrain.distributed import comm
from pretrain.errors import RunFailedError
from pretrain.eval import training
from pretrain.eval.data import TrainView, training_loader
from pretrain.eval.encoders import weights_sha256
from pretrain.eval.linear_probe import LinearClassifiers, LinearProbe, step_decay
from pretrain.eval.training import train_and_test
from tests.pretrain.eval.drawn import ColouredSource, PixelFeatures, drawn_data, drawn_session
from tests.pretrain.processes import run_in_processes


def train_on_pixels(session, stages=PixelFeatures.stages, epochs=4, lr=30.0, dtype=torch.float32, batch_size=8, stop=None,
                    drop_last=False):
    """Trains linear classifiers on pixels; returns them and the outcome. ``stop`` ends the run after so many epochs."""
    model = LinearClassifiers(PixelFeatures(stages, dtype), session.data.num_classes, seed=0).to(dtype)
    optimizer = torch.optim.SGD(model.heads.parameters(), lr=lr)
    loader = training_loader(session.data.train_views(TrainView(16)), batch_size, 0, seed=0, drop_last=drop_last)
    schedule = partial(step_decay, lr=lr, epochs=epochs)
    return model, train_and_test(model, optimizer, schedule, session, loader, stop or epochs)


def test_separable_features_are_learned():
    """Colours tell the classes apart: 100% on both stages, with the paper's learning rate; top-5 would say nothing."""
    _, outcome = train_on_pixels(drawn_session(), epochs=10)
    for name in PixelFeatures.stages:
        assert outcome.stages[name] == dict(top1=100.0, top5=None, train_top1=100.0)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 30), (29.99, 30), (30, 3), (59.99, 3), (60, 0.3), (90, 0.03)])
def test_the_learning_rate_drops_at_30_60_90(epoch, expected):
    """LoCo, section 5.1; with other numbers of epochs at the same shares."""
    assert step_decay(epoch, 30.0, 100) == pytest.approx(expected)
    assert step_decay(epoch / 10, 30.0, 10) == pytest.approx(expected)


def test_the_default_learning_rate_is_in_proportion_to_the_batch():
    """30 at 256; and the protocol's record holds what is used."""
    assert (LinearProbe().lr, LinearProbe(batch_size=512).lr, LinearProbe(lr=1.0, batch_size=512).lr) == (30, 60, 1)
    assert LinearProbe(epochs=50).protocol()["milestones"] == [15, 30, 45]
    for options in (dict(epochs=0), dict(batch_size=0), dict(lr=-1.0), dict(lr=math.inf)):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is .*; it must be above 0"):
            LinearProbe(**options)


def test_stages_do_not_see_each_other():
    """A stage's classifier trained beside the other's is bit for bit the one trained alone."""
    together, _ = train_on_pixels(drawn_session())
    for name in PixelFeatures.stages:
        alone, _ = train_on_pixels(drawn_session(), stages=(name,))
        assert torch.equal(together.heads[name].weight, alone.heads[name].weight)
        assert torch.equal(together.heads[name].bias, alone.heads[name].bias)


def test_the_first_step_is_that_of_the_textbook():
    """One full-batch epoch against softmax regression's gradient written out in float64."""
    data = drawn_data(train=12)
    model, _ = train_on_pixels(drawn_session(data), epochs=1, lr=0.5, dtype=torch.float64, batch_size=12)
    loader = training_loader(data.train_views(TrainView(16)), 12, workers=0, seed=0)
    loader.sampler.set_epoch(0)
    ((images, labels),) = loader
    x = PixelFeatures(("grid",), torch.float64)(images)["grid"].numpy()
    start = LinearClassifiers(PixelFeatures(), 3, seed=0).double().heads["grid"].weight.detach().numpy()
    scores = np.exp(x @ start.T)
    residual = scores / scores.sum(1, keepdims=True) - np.eye(3)[labels.numpy()]
    np.testing.assert_allclose(model.heads["grid"].weight.detach().numpy(), start - 0.5 * residual.T @ x / 12, rtol=1e-9)
    np.testing.assert_allclose(model.heads["grid"].bias.detach().numpy(), -0.5 * residual.mean(0), rtol=1e-9, atol=1e-12)


def test_resume_is_exact(tmp_path):
    """Interrupted after two of four epochs and continued, weights and accuracies are those of the undisturbed run."""
    file = tmp_path / "run.state.pth"
    whole, expected = train_on_pixels(drawn_session())
    train_on_pixels(drawn_session(state_file=file, settings={"seed": 0}), stop=2)
    with pytest.raises(ValueError, match="unfinished run; pass --resume"):
        train_on_pixels(drawn_session(state_file=file, settings={"seed": 0}))
    with pytest.raises(ValueError, match="unfinished run with other settings; differing keys: seed; .*--out"):
        train_on_pixels(drawn_session(state_file=file, settings={"seed": 1}, resume=True))
    resumed, found = train_on_pixels(drawn_session(state_file=file, settings={"seed": 0}, resume=True))
    assert weights_sha256(resumed.heads) == weights_sha256(whole.heads)
    assert found.stages == expected.stages


def test_resume_goes_on_counting_time_and_images(tmp_path):
    """The speed is that of all epochs, whichever run made them; 26 images in batches of 8 that drop the last are 24."""
    file, data = tmp_path / "run.state.pth", drawn_data(train=26)
    train_on_pixels(drawn_session(data, state_file=file), stop=3, drop_last=True)
    saved = torch.load(file, weights_only=True)
    assert saved["images"] == 3 * 24
    saved["seconds"] = 1000.0
    torch.save(saved, file)
    _, outcome = train_on_pixels(drawn_session(data, state_file=file, resume=True), drop_last=True)
    assert outcome.earlier_s == 1000.0
    assert 0.95 * 96 / 1000 < outcome.images_per_s < 96 / 1000


def test_the_loss_is_the_mean_over_what_was_trained_on(monkeypatch):
    """Of 26 images in batches of 8 that drop the last, with one broken; scores about zero cost log 3 each."""
    told = []
    monkeypatch.setattr(training, "print_log", lambda message, **_: told.append(message))
    train_on_pixels(drawn_session(drawn_data(train=26, broken=[5])), epochs=1, lr=1e-12, drop_last=True)
    assert float(re.search(r"loss ([\d.]+)", told[0])[1]) == pytest.approx(math.log(3), abs=0.01)


def test_corrupt_images_train_nothing(tmp_path):
    """With one image broken, the classifier is that of the set without it; the count is in the outcome."""
    broken = drawn_data(train=120, broken=[5])
    without = type(broken)(broken.train, broken.test, np.delete(np.arange(120), 5))
    found, outcome = train_on_pixels(drawn_session(broken), epochs=1, dtype=torch.float64, batch_size=120)
    expected, _ = train_on_pixels(drawn_session(without), epochs=1, dtype=torch.float64, batch_size=120)
    torch.testing.assert_close(found.heads["grid"].weight, expected.heads["grid"].weight)
    assert outcome.corrupt == dict(train=1, test=0)


@pytest.mark.parametrize("batch_size", [8, 24])
@pytest.mark.parametrize("lr", [1e30, 3e38])
def test_a_run_that_diverges_ends(batch_size, lr):
    """Also if the last step does it, after which no loss is computed, and the message says what to lower."""
    with pytest.raises(RunFailedError, match="training diverged in epoch 1: .*; lower the learning rate with --lr"):
        train_on_pixels(drawn_session(), lr=lr, epochs=1, batch_size=batch_size)


def test_a_damaged_test_set_is_told_before_training(monkeypatch):
    """Not after all epochs: no step is made."""
    data = drawn_data()
    data = type(data)(data.train, ColouredSource(12, broken=[0, 4]), data.train_indices)
    monkeypatch.setattr(torch.optim.SGD, "step", None)
    with pytest.raises(RunFailedError, match="2 of 12 images cannot be decoded"):
        train_on_pixels(drawn_session(data))


def test_the_probe_leaves_the_encoder_alone():
    """A whole run on a real encoder, batch norm statistics included."""
    session = drawn_session(drawn_data(train=8, test=8))
    before = weights_sha256(session.encoder)
    session.encoder.train()  # as a careless caller would hand it over
    outcome = LinearProbe(epochs=1, batch_size=8).run(session)
    assert weights_sha256(session.encoder) == before
    assert list(outcome.stages) == ["res2", "res3", "res4", "res5"]


def train_in_process() -> tuple[list[np.ndarray], dict]:
    """What one of several processes computes, with its share of a global batch of 8; 30 images leave a last batch of 6."""
    data = drawn_data(train=30, test=7, classes=6)
    model, outcome = train_on_pixels(drawn_session(data), dtype=torch.float64, epochs=3)
    assert comm.world_size() in (1, 2)
    return [p.detach().numpy() for p in model.heads.parameters()], outcome.stages


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Weights in float64 and all accuracies, with a test set that two processes cannot share evenly."""
    weights, stages = train_in_process()
    for found_weights, found_stages in run_in_processes(train_in_process, 2, tmp_path):
        for found, expected in zip(found_weights, weights, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert found_stages == stages
