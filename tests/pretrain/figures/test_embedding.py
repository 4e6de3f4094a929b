"""t-SNE figures: numbers against scikit-learn on features of a plain loop, equal bytes, and bad input."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from pretrain.data.sources import build_source
from pretrain.engine.checkpoints import FORMAT, FORMAT_VERSION
from pretrain.eval.data import CentreView
from pretrain.eval.features import load_encoder
from pretrain.figures.embedding import ImageChoice, draw_embedding, leave_one_out_knn, tsne
from pretrain.figures.style import save_figure
from pretrain.learner import IMAGENET_MEAN, IMAGENET_STD
from pretrain.results.method import standard_method

ENCODER = dict(type="resnet18", width=16, stem="stl")


def draw(root, files=("random",), **options):
    choice = ImageChoice("coco_objects", root, **{key: options.pop(key) for key in ("classes", "images") if key in options})
    return draw_embedding(files, choice, encoder=ENCODER, image_size=32, workers=0, device="cpu", **options)


def expected_knn(features, labels, neighbours):
    votes = KNeighborsClassifier(neighbours, metric="cosine", algorithm="brute")
    return 100 * np.mean(cross_val_predict(votes, features, labels, cv=LeaveOneOut()) == labels)


def test_numbers_are_those_of_the_features():
    """kNN equals scikit-learn's leave-one-out, on clustered features of 5 classes."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 12)
    features = (rng.normal(size=(5, 20))[labels] + 1.2 * rng.normal(size=(60, 20)) + 1).astype(np.float32)
    knn = leave_one_out_knn(torch.from_numpy(features), torch.from_numpy(labels), neighbours=7)
    assert 40 < knn < 100
    assert knn == pytest.approx(expected_knn(features.astype(np.float64), labels, 7))


def test_few_images_are_all_neighbours():
    """There are no more neighbours than other images."""
    features, labels = torch.eye(4)[[0, 0, 1, 1]] + 0.01 * torch.arange(4)[:, None], torch.tensor([0, 0, 1, 1])
    assert leave_one_out_knn(features, labels, neighbours=1) == 100
    assert leave_one_out_knn(features, labels, neighbours=50) == 0  # one of the own class, two of the other


def test_separate_clusters_stay_separate_on_the_map():
    """In the map every point's nearest neighbour is of its cluster, and the seed decides the map."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 15)
    features = (8 * rng.normal(size=(3, 60))[labels] + rng.normal(size=(45, 60))).astype(np.float32)
    points = tsne(features, seed=0)
    assert points.shape == (45, 2)
    assert expected_euclidean_neighbours(points, labels) == 1
    np.testing.assert_array_equal(points, tsne(features, seed=0))


def expected_euclidean_neighbours(points, labels):
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(len(points), np.inf))
    return np.mean(labels[distance.argmin(axis=1)] == labels)


def test_numbers_of_a_drawing_are_of_the_encoders_features(synthetic_root):
    """The printed numbers equal those of features that a plain loop over images and stages pools."""
    drawing = draw(synthetic_root, stage="res4")
    source = build_source("coco_objects", synthetic_root, "val")
    encoder, _ = load_encoder("random", ENCODER, seed=0)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        views = torch.stack([(CentreView(32)(source.load(i)) - mean) / std for i in range(len(source))])
        features = encoder.eval()(views)["res4"].mean(dim=(2, 3)).double().numpy()
    [axis] = drawing.figure.axes
    assert axis.get_title() == "random" and sum(len(dots.get_offsets()) for dots in axis.collections) == len(source) > 5
    knn, found = re.fullmatch("kNN (.*) %, silhouette (.*)", axis.get_xlabel().replace("\N{MINUS SIGN}", "-")).groups()
    assert float(knn) == pytest.approx(expected_knn(features, source.labels, min(10, len(source) - 1)), abs=0.05)
    assert float(found) == pytest.approx(silhouette_score(features, source.labels, metric="cosine"), abs=1e-3)


def test_same_points_for_every_encoder_and_equal_bytes(synthetic_root, tmp_path):
    """Panels show as many points of each class; a second drawing has the same files byte for byte."""
    first = draw(synthetic_root, ["random", "random"], classes=["vertical_top", "vertical_bottom"])
    second = draw(synthetic_root, ["random", "random"], classes=["vertical_top", "vertical_bottom"])
    counts = [[len(dots.get_offsets()) for dots in axis.collections] for axis in first.figure.axes]
    assert counts[0] == counts[1]
    for a, b in zip(save_figure(first.figure, tmp_path / "a"), save_figure(second.figure, tmp_path / "b"), strict=True):
        assert a.read_bytes() == b.read_bytes()


def record_of(rule, **setting):
    """The record of an exported backbone."""
    return dict(format=FORMAT, version=FORMAT_VERSION, epoch=5, iter=5, method=standard_method(rule),
                setting=dict(encoder=ENCODER, epochs=5) | setting, repetition=dict(seed=0))


def test_variants_have_titles_of_their_own(synthetic_root, tmp_path):
    """Methods that differ in anything are not called alike, nor by the names of their files."""
    encoder, _ = load_encoder("random", ENCODER, seed=5)
    rules = {"a": dict(type="loco", window=3), "b": "loco"}
    for name, rule in rules.items():
        torch.save(dict(state_dict=encoder.state_dict(), meta=record_of(rule)), tmp_path / f"{name}.pth")
    drawing = draw(synthetic_root, [str(tmp_path / f"{name}.pth") for name in rules])
    assert [axis.get_title() for axis in drawing.figure.axes] == ["LoCo, window 3", "LoCo"]


def test_random_weights_are_of_the_first_files_encoder(synthetic_root, tmp_path):
    """Beside a pretrained encoder the word random needs no options, and gets views of the same size."""
    encoder, _ = load_encoder("random", ENCODER, seed=5)
    torch.save(dict(state_dict=encoder.state_dict(), meta=record_of("gim", image_size=24)), tmp_path / "gim.pth")
    choice = ImageChoice("coco_objects", synthetic_root)
    drawing = draw_embedding([str(tmp_path / "gim.pth"), "random"], choice, workers=0, device="cpu")
    assert [axis.get_title() for axis in drawing.figure.axes] == ["GIM", "random"]


def test_checkpoints_of_one_run_have_unique_titles(synthetic_root, tmp_path):
    """Two epochs of a run have titles that differ, whatever the folder is called."""
    encoder, _ = load_encoder("random", ENCODER, seed=5)
    files = [tmp_path / "a $x_{$" / f"epoch_{epoch}.pth" for epoch in (3, 5)]
    files[0].parent.mkdir()
    for file in files:
        torch.save(dict(state_dict=encoder.state_dict(), meta=record_of("gim")), file)
    drawing = draw(synthetic_root, [str(file) for file in files])
    save_figure(drawing.figure, tmp_path / "figure")
    assert [axis.get_title() for axis in drawing.figure.axes] == [
        "GIM\na $x_{$/epoch_3.pth", "GIM\na $x_{$/epoch_5.pth"]


def test_bad_input(synthetic_root):
    """Unknown classes and stages list what there is; one class, or as many images as classes, is no embedding."""
    with pytest.raises(ValueError, match="has no class 'cat'; it has side_by_side, "):
        draw(synthetic_root, classes=["cat"])
    with pytest.raises(ValueError, match="encoder of random has no stage 'res9'; it has res2, res3, res4, res5"):
        draw(synthetic_root, stage="res9")
    with pytest.raises(ValueError, match="at least two classes"):
        draw(synthetic_root, classes=["vertical_top"])
    with pytest.raises(ValueError, match="2 images"):
        draw(synthetic_root, images=2)
    with pytest.raises(ValueError, match="random encoder needs --encoder"):
        draw_embedding(["random"], ImageChoice("coco_objects", synthetic_root), workers=0)
