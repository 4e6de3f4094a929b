"""Sources of image files: what is found, how it is labelled, and what is refused."""

from __future__ import annotations

import hashlib
import logging
import pickle

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder as TorchvisionImageFolder

from pretrain.data import decoding, image_files
from pretrain.data.decoding import IMAGE_SUFFIXES, CorruptImageError
from pretrain.data.sources import SOURCES, build_source, default_splits, labelled


def make_images(root, *names):
    """Images below ``root``, each filled with a colour of its own."""
    for number, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (40 * number % 256, number, 7)).save(file)


@pytest.fixture
def logged(monkeypatch):
    """Collects ``(level, message)`` of what is printed to the log."""
    messages = []
    for module in (image_files, decoding):
        monkeypatch.setattr(module, "print_log", lambda message, logger, level: messages.append((level, message)))
    return messages


def names_below(root, source):
    """The paths of a folder's images, relative to it."""
    return [source.name(index).removeprefix(f"{root}/") for index in range(len(source))]


def test_class_folders_are_labelled_as_by_torchvision(tmp_path):
    """Same order of images and classes, same labels as ImageFolder's, whose class search is another."""
    make_images(tmp_path, "b/2.png", "b/deep/1.png", "a-b/3.png", "a/9.png", "a/10.PNG", "C/x.png")
    ours, theirs = build_source("folder", tmp_path), TorchvisionImageFolder(tmp_path)
    assert ours.classes == tuple(theirs.classes)
    by_path = {ours.name(i): int(ours.labels[i]) for i in range(len(ours))}
    assert by_path == dict(theirs.samples)
    assert ours.labels.dtype == np.int64
    for index in range(len(ours)):
        position = [path for path, _ in theirs.samples].index(ours.name(index))
        assert np.array_equal(np.asarray(ours.load(index)), np.asarray(theirs[position][0]))


def test_any_nesting_is_pretrained_on_but_not_labelled(tmp_path):
    """One image beside the sub-folders: all images are there, labels are not, and the message says what to do."""
    make_images(tmp_path, "top.png", "a/1.png", "a/b/c/2.png")
    source = build_source(dict(type="folder"), tmp_path)
    assert [source.name(i) for i in range(3)] == [str(tmp_path / n) for n in ("a/1.png", "a/b/c/2.png", "top.png")]
    assert source.classes is source.labels is None
    message = rf"{tmp_path} has no labels; put its images into one sub-folder per class \(1 of 3 lie in none, top.png"
    with pytest.raises(ValueError, match=message):
        labelled(source)


def test_every_image_suffix_is_found_and_decoded(tmp_path, logged):
    """PIL reads all of them, in any case; a file of each format that it writes is listed and decodes; others are counted."""
    Image.init()
    assert set(Image.registered_extensions()) >= IMAGE_SUFFIXES
    writable = [suffix for suffix in sorted(IMAGE_SUFFIXES) if Image.registered_extensions()[suffix] in Image.SAVE]
    assert {".gif", ".jfif", ".jp2", ".png", ".webp"} <= set(writable)
    make_images(tmp_path, *(f"a{suffix}" for suffix in writable), "B.GIF")
    assert build_source("folder", tmp_path).load(0).size == (6, 5)
    assert logged == []
    for name in ("x.heic", "y.HEIC", "LICENSE", "notes.txt", ".hidden.txt"):
        (tmp_path / name).write_bytes(b"")
    source = build_source("folder", tmp_path)
    assert sorted(names_below(tmp_path, source)) == sorted([*(f"a{suffix}" for suffix in writable), "B.GIF"])
    assert all(source.load(index).size == (6, 5) for index in range(len(source)))
    (level, message), = logged
    assert level == logging.INFO
    assert f"{tmp_path}: passed over 4 files that are no images by their suffix (2 .heic, 1 " in message
    assert "1 .txt" in message and "1 no suffix" in message
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "1.heic").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds no image \(.*\), only other files: 1 .heic"):
        build_source("folder", tmp_path / "none")


def test_hidden_folders_are_no_classes(tmp_path, logged):
    """Notebook checkpoints, macOS's archives and files beside images: neither images nor classes, in train or elsewhere."""
    hidden = (".ipynb_checkpoints/0.png", "__MACOSX/a/0.png", "a/.thumbs/0.png", "a/._1.png", ".0.png")
    make_images(tmp_path, *(f"{split}/{name}" for split in ("train", "val") for name in ("a/1.png", "b/2.png", *hidden)))
    for split in ("train", "val"):
        source = build_source("folder", tmp_path, split)
        assert names_below(tmp_path / split, source) == ["a/1.png", "b/2.png"]
        assert source.classes == ("a", "b")
        assert source.labels.tolist() == [0, 1]
    assert image_files.class_folders(tmp_path / "train") == ("a", "b")
    assert logged == []


def test_splits_taken_together_are_told(tmp_path, logged):
    """A root of train and test pretrains on both, but not silently; a split, or folders of other names, need no word."""
    make_images(tmp_path, "train/a/1.png", "test/a/1.png", "extra/1.png")
    assert len(build_source("folder", tmp_path)) == 3
    (level, message), = logged
    assert level == logging.WARNING
    assert f"{tmp_path} holds the folders test, train, and" in message
    assert "--cfg-options train_dataloader.dataset.split=train)" in message
    build_source("folder", tmp_path, "train")
    make_images(tmp_path / "classes", "trained/1.png", "tester/1.png", "train/2.png")
    build_source("folder", tmp_path / "classes")
    assert len(logged) == 1
    make_images(tmp_path / "coco", "val2017/1.png", "train2017/2.png")
    build_source("folder", tmp_path / "coco")
    assert "split=train2017" in logged[1][1]


def test_class_folders_are_split_by_the_hash_of_their_names(tmp_path):
    """Per class the share with the smallest hashes; both splits know all classes; a single image is trained on."""
    counts = dict(a=10, b=7, c=2, d=1)
    members = {name: [f"{name}/{number}.png" for number in range(count)] for name, count in counts.items()}
    make_images(tmp_path, *sum(members.values(), []))
    spec = dict(type="folder", test_share=0.3)
    assert default_splits(spec, tmp_path) == ("train", "test")
    train, test = (labelled(build_source(spec, tmp_path, split)) for split in default_splits(spec, tmp_path))
    ranked = {name: sorted(members[name], key=lambda path: hashlib.sha256(path.encode()).hexdigest()) for name in counts}
    expected = sorted(ranked["a"][:3] + ranked["b"][:2] + ranked["c"][:1])
    assert names_below(tmp_path, test) == expected
    assert sorted(names_below(tmp_path, train) + expected) == sorted(sum(members.values(), []))
    assert train.classes == test.classes == ("a", "b", "c", "d")
    for source in (train, test):
        assert [source.classes[label] for label in source.labels] == [name[0] for name in names_below(tmp_path, source)]
    assert len(build_source(spec, tmp_path)) == 20
    assert test.description == f"image folder {tmp_path}, split test"


@pytest.mark.parametrize(
    ("images", "share", "split", "message"),
    [
        (["a/1.png", "a/2.png"], 1.0, "train", "test_share is 1.0; a share lies between 0 and 1"),
        (["a/1.png", "a/2.png"], "0.2", "train", "test_share is 0.2; a share lies between"),
        (["a/1.png", "a/2.png"], 0.5, "val", "split is 'val', but test_share makes the splits train and test"),
        (["train/a/1.png", "val/a/2.png"], 0.5, "train", "holds the folders train, val; leave it out"),
        (["a/1.png", "a/2.png", "3.png"], 0.5, "train", "1 of 3 lie in none, 3.png for one; move them"),
        (["a/1.png", "b/2.png"], 0.5, "test", "no image to test on: every class folder .* holds a single one"),
    ],
)
def test_a_share_that_does_not_fit_is_refused(tmp_path, images, share, split, message):
    """The share itself, another split, and folders that are no classes."""
    make_images(tmp_path, *images)
    with pytest.raises(ValueError, match=message):
        build_source(dict(type="folder", test_share=share), tmp_path, split)


def test_one_class_is_no_classification(tmp_path):
    """A single class folder is refused by name; two are returned as they are."""
    make_images(tmp_path, "only/1.png")
    with pytest.raises(ValueError, match="only the class 'only', but at least two"):
        labelled(build_source("folder", tmp_path))
    make_images(tmp_path, "other/1.png")
    source = build_source("folder", tmp_path)
    assert labelled(source) is source


def test_a_split_that_lacks_a_class_keeps_the_labels_of_train(tmp_path):
    """With b missing in val, c stays class 2; a class that train has not is refused; empty folders are no classes."""
    make_images(tmp_path, *(f"train/{name}/1.png" for name in "abc"), "val/a/1.png", "val/c/1.png")
    (tmp_path / "train" / "aa_empty").mkdir()
    train, val = (build_source("folder", tmp_path, split) for split in default_splits("folder", tmp_path))
    assert train.classes == val.classes == ("a", "b", "c")
    assert val.labels.tolist() == [0, 2]
    make_images(tmp_path, "val/d/1.png")
    with pytest.raises(ValueError, match="val has class folders that .*train has not: d;"):
        build_source("folder", tmp_path, "val")


def test_default_splits(tmp_path):
    """Folders: train, and val before test; the others have fixed ones."""
    with pytest.raises(ValueError, match="does not have the folders train and val.* option test_share=0.2"):
        default_splits("folder", tmp_path)
    make_images(tmp_path, "train/a/1.png", "test/a/1.png")
    assert default_splits("folder", tmp_path) == ("train", "test")
    (tmp_path / "val").mkdir()
    assert default_splits(dict(type="folder"), tmp_path) == ("train", "val")
    expected = dict(imagenet=("train", "val"), file_list=("train", "val"), webdataset=("train", "val"),
                    stl10=("train", "test"), cifar10=("train", "test"), cifar100=("train", "test"),
                    fashion_mnist=("train", "test"), coco_objects=("train", "val"))
    assert {name: default_splits(name, tmp_path) for name in expected} == expected
    assert set(SOURCES.module_dict) == {"folder", *expected}


@pytest.mark.parametrize(
    ("spec", "split", "message"),
    [
        ("cifar11", None, "unknown image source 'cifar11'; nearest known names: cifar10"),
        (dict(root="x"), None, "unknown image source None"),
        (dict(type="folder", recursive=True), None, "options of image source 'folder' do not fit.*recursive"),
        ("file_list", None, "options of image source 'file_list' do not fit.*file"),
        ("cifar10", "val", "'cifar10' has no split 'val'; it has train, test"),
        ("folder", "train", "does not exist"),
    ],
)
def test_bad_specs_are_refused(spec, split, message, tmp_path):
    """The value and the names or options that would do are in the message."""
    with pytest.raises(ValueError, match=message):
        build_source(spec, tmp_path, split)


def test_links_upwards_are_not_followed(tmp_path):
    """A link to a folder above does not multiply the images; one to another folder is followed."""
    make_images(tmp_path, "images/a/1.png", "elsewhere/2.png")
    (tmp_path / "images" / "a" / "up").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "b").symlink_to(tmp_path / "elsewhere")
    source = build_source("folder", tmp_path / "images")
    assert [source.name(i) for i in range(len(source))] == [str(tmp_path / "images" / n) for n in ("a/1.png", "b/2.png")]


def test_links_that_lead_to_each_other_end(tmp_path):
    """Two folders that link to each other: either is seen from the other, once; so it is where the root itself is a link."""
    make_images(tmp_path / "images", "a/1.png", "b/2.png")
    (tmp_path / "images" / "a" / "link").symlink_to("../b")
    (tmp_path / "images" / "b" / "link").symlink_to("../a")
    (tmp_path / "root").symlink_to("images")
    for root in (tmp_path / "images", tmp_path / "root"):
        assert names_below(root, build_source("folder", root)) == ["a/1.png", "a/link/2.png", "b/2.png", "b/link/1.png"]


def test_a_source_survives_pickling_with_any_file_name(tmp_path):
    """Workers that are spawned get the same images; names need neither be ASCII nor valid UTF-8."""
    make_images(tmp_path, "ä/ö €.png", "a/b.png")
    odd = tmp_path / "a" / "\udcff.png"
    odd.write_bytes((tmp_path / "a" / "b.png").read_bytes())
    source = pickle.loads(pickle.dumps(build_source("folder", tmp_path)))
    names = {source.name(i) for i in range(3)}
    assert names == {str(tmp_path / "ä" / "ö €.png"), str(tmp_path / "a" / "b.png"), str(odd)}
    assert all(source.load(i).size == (6, 5) for i in range(3))


def test_the_default_order_is_a_seeded_shuffle(tmp_path):
    """The order is that of numpy's permutation: runs begun before there were sources go on alike."""
    make_images(tmp_path, *(f"{i}.png" for i in range(9)))
    source = build_source("folder", tmp_path)
    orders = [source.epoch_order(np.random.default_rng([3, epoch])).tolist() for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] == np.random.default_rng([3, 0]).permutation(9).tolist() != orders[1]


# ImageNet


def test_imagenet_layout(tmp_path):
    """Labels are indices of sorted WordNet ids, alike in both splits; train is the default."""
    make_images(tmp_path, *(f"{split}/n0000000{i}/{i}.png" for split in ("train", "val") for i in (2, 1, 3)))
    source = build_source("imagenet", tmp_path)
    assert source.classes == ("n00000001", "n00000002", "n00000003")
    assert source.labels.tolist() == [0, 1, 2]
    assert source.name(0) == str(tmp_path / "train/n00000001/1.png")
    assert build_source("imagenet", tmp_path, "val").classes == source.classes


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["train/n00000001/a.png", "val/1.png", "val/2.png"], "holds 2 images outside of class folders, 1.png.*valprep.sh"),
        (["train/n00000001/a.png"], "there is no val; get ILSVRC 2012 from https://image-net.org"),
        (["train/n00000001/a.png", "val/n00000002/a.png"], "not have the same classes.*n00000001, n00000002"),
        (["train/cat/a.png", "val/cat/a.png"], "no WordNet ids.*cat; for other layouts choose source='folder'"),
    ],
)
def test_other_layouts_than_imagenet_are_refused(tmp_path, images, message):
    """A flat val folder, a missing one, other classes and other names: each with its mend."""
    make_images(tmp_path, *images)
    with pytest.raises(ValueError, match=message):
        build_source("imagenet", tmp_path, "val")


def test_packed_classes_of_imagenet_are_refused(tmp_path):
    """The train archive holds an archive per class, which many unpack one level only."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "n01440764.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"archives of classes \(n01440764.tar\); unpack each"):
        build_source("imagenet", tmp_path)


# Lists


def build_list(tmp_path, content, **options):
    """A source of ``list.txt`` with the given content."""
    (tmp_path / "list.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return build_source(dict(type="file_list", file="list.txt", **options), tmp_path)


def test_list_with_names(tmp_path):
    """The list's order; sorted names as classes; spaces in paths, tabs, Windows line ends, a byte order mark."""
    make_images(tmp_path, "x/a b.png", "c.png", "d.png")
    source = build_list(tmp_path, "\ufeffx/a b.png zebra\r\n\r\nd.png\tpolar bear\r\nc.png zebra\r\n")
    assert [source.name(i) for i in range(3)] == [str(tmp_path / n) for n in ("x/a b.png", "d.png", "c.png")]
    assert source.classes == ("polar bear", "zebra")
    assert source.labels.tolist() == [1, 0, 1]
    assert source.load(0).size == (6, 5)


def test_list_without_labels(tmp_path):
    """What ends as an image does is a path, not a label; absolute paths are allowed."""
    make_images(tmp_path, "a b.png", "c.png")
    source = build_list(tmp_path, f"a b.png\n{tmp_path / 'c.png'}")
    assert [source.name(i) for i in range(2)] == [str(tmp_path / "a b.png"), str(tmp_path / "c.png")]
    assert source.classes is source.labels is None
    with pytest.raises(ValueError, match="list.txt has no labels; write a label after each path"):
        labelled(source)


def test_list_with_spaces_in_paths(tmp_path):
    """A line that ends as a file does is a path, of an image suffix or of another; a tab settles what could be either."""
    for name in ("my photo.gif", "my photo.heic", "my cat.dog"):
        (tmp_path / name).write_bytes(b"")
    source = build_list(tmp_path, "my photo.gif\nmy photo.heic\n")
    assert names_below(tmp_path, source) == ["my photo.gif", "my photo.heic"]
    assert source.labels is None
    source = build_list(tmp_path, "my photo.gif v.2\nmy photo.heic\tcat.dog\nmy cat.dog\t7\n")
    assert names_below(tmp_path, source) == ["my photo.gif", "my photo.heic", "my cat.dog"]
    assert source.classes == ("7", "cat.dog", "v.2")
    with pytest.raises(ValueError, match="line 1: .*/my old.one does not exist.* a tab divides a path that holds spaces"):
        build_list(tmp_path, "my old.one photo.heic\n")


def test_list_with_indices(tmp_path):
    """Integers count from 0; classes give names or a greater number of classes than the list shows."""
    make_images(tmp_path, "a.png", "b.png")
    content = "a.png 002\nb.png 0\n"
    assert build_list(tmp_path, content).classes == ("0", "1", "2")
    assert build_list(tmp_path, content).labels.tolist() == [2, 0]
    assert build_list(tmp_path, content, classes=12).classes[11] == "11"
    named = build_list(tmp_path, content, classes=["ant", "bee", "cow"])
    assert (named.classes, named.labels.tolist()) == (("ant", "bee", "cow"), [2, 0])


def test_lists_of_splits_share_the_classes_of_train(tmp_path):
    """A class that val lacks shifts no label; one that train lacks is refused with its line."""
    make_images(tmp_path, "a.png", "b.png", "c.png")
    spec = dict(type="file_list", file="lists/{split}.txt")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("a.png ant\nb.png bee\nc.png cow\n")
    (tmp_path / "lists" / "val.txt").write_text("a.png cow\n")
    train, val = (build_source(spec, tmp_path, split) for split in default_splits(spec, tmp_path))
    assert train.classes == val.classes == ("ant", "bee", "cow")
    assert val.labels.tolist() == [2]
    (tmp_path / "lists" / "val.txt").write_text("a.png cow\nb.png 2\n")
    with pytest.raises(ValueError, match="val.txt, line 2: the label '2' is out of range: the 3 classes are ant, bee, cow"):
        build_source(spec, tmp_path, "val")
    with pytest.raises(ValueError, match="file is 'lists/{split}.txt' and split is None"):
        build_source(spec, tmp_path)
    with pytest.raises(ValueError, match="or all splits would hold the same images"):
        build_source(dict(spec, file="lists/train.txt"), tmp_path, "val")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a.png 1\na.png b.png\n", {}, "line 2: no label, unlike line 1"),
        ("\na.png\n\nb.png 1\n", {}, "line 4: a label, unlike line 2"),
        (b"a.png\nb\xff.png\n", {}, "line 2: not UTF-8"),
        ("a.png\nb\0.png", {}, "line 2: .* is no 'path' or 'path label'"),
        ("a.png 0\n\t3\n", {}, "line 2: .* is no 'path' or 'path label'"),
        ("a.png 0\nb.png 5\n", dict(classes=5), "line 2: the label '5' is out of range: the 5 classes"),
        ("a.png 0\nb.png -1\n", {}, "line 2: the label '-1' is out of range"),
        ("a.png 0\nb.png 123456789\n", {}, "label 123456789, which is out of range"),
        ("a.png ant\nb.png bea\n", dict(classes=["ant", "bee"]), "line 2: the label 'bea' is out of range.*ant, bee"),
        ("a.png 0\n", dict(classes=["ant", "ant"]), "classes holds 'ant' 2 times"),
        ("a.png 0\n", dict(classes=0), "classes is empty"),
        ("a.png 0\na.png 1\n", {}, "line 2: a.png is labelled '1', but '0' on line 1"),
        ("", {}, "list.txt is empty"),
        ("gone.png 0\nlost.png 1\n", {}, "line 1: .*gone.png does not exist, nor do the images of the next lines"),
    ],
)
def test_bad_lists_are_refused(tmp_path, content, options, message):
    """The message names list and line."""
    make_images(tmp_path, "a.png", "b.png")
    with pytest.raises(ValueError, match=message):
        build_list(tmp_path, content, **options)


def test_a_missing_list_and_a_missing_image(tmp_path):
    """The list is needed from the start; a single image may be missing, and fails when it is loaded."""
    with pytest.raises(ValueError, match="list of images .*list.txt does not exist"):
        build_source(dict(type="file_list", file="list.txt"), tmp_path)
    make_images(tmp_path, "a.png")
    source = build_list(tmp_path, "gone.png\na.png\n")
    with pytest.raises(CorruptImageError, match="gone.png cannot be decoded"):
        source.load(0)
    assert source.load(1).size == (6, 5)


def test_repeated_paths_count_twice_and_are_reported(tmp_path, logged):
    """Oversampling by repeated lines is allowed, but not silent."""
    make_images(tmp_path, "a.png", "b.png")
    assert len(build_list(tmp_path, "a.png 0\nb.png 1\na.png 0\n")) == 3
    (level, message), = logged
    assert level == logging.WARNING
    assert "1 lines repeat the path of an earlier one, line 3 (a.png)" in message
