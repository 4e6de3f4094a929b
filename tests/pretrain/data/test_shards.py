"""Tar shards: an exact index, whatever the archive holds; a cache that is never stale; reading that stays local."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from pretrain.data import shards
from pretrain.data.dataset import KeyedSampler, TwoViewImages
from pretrain.data.decoding import CorruptImageError
from pretrain.data.shards import expand_braces
from pretrain.data.sources import build_source, labelled


def png(value):
    """A gray PNG file."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 16), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, members, form=tarfile.PAX_FORMAT):
    """A tar archive of ``(name, content)`` pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_shards(folder, count=3, samples=4):
    """``count`` shards; sample k of shard s is gray 10 s + k with label k."""
    for s in range(count):
        write_tar(folder / f"{s:06d}.tar",
                  [pair for k in range(samples) for pair in
                   ((f"{s}/{k:03d}.png", png(10 * s + k)), (f"{s}/{k:03d}.cls", b"%d\n" % k), (f"{s}/{k:03d}.json", b"{}"))])
    return folder


def grays(source):
    return [np.asarray(source.load(index)).max() for index in range(len(source))]


@pytest.fixture(autouse=True)
def _own_cache_folder(tmp_path, monkeypatch):
    """The user's cache is left alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))


@pytest.fixture
def warnings_of_shards(monkeypatch):
    """Collects the messages that the module prints to the log."""
    messages = []
    monkeypatch.setattr(shards, "print_log", lambda message, logger, level: messages.append(message))
    return messages


@pytest.fixture
def indexed(monkeypatch):
    """The names of the shards whose headers are read."""
    read, names = shards.read_index, []
    monkeypatch.setattr(shards, "read_index", lambda shard: names.append(shard.name) or read(shard))
    return names


def test_samples_labels_and_names(tmp_path):
    """Shards in order, samples in the shards' order; the label is that of the same key; other files are left alone."""
    source = pickle.loads(pickle.dumps(build_source("webdataset", write_shards(tmp_path))))
    assert grays(source) == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    assert source.labels.tolist() == [0, 1, 2, 3] * 3
    assert source.classes == ("0", "1", "2", "3")
    assert source.name(6) == f"{tmp_path / '000001.tar'}: 1/002.png"
    assert labelled(source) is source


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_keys_end_at_the_first_dot(tmp_path, form):
    """Masks (a.seg.png), hidden files and folders, long and non-ASCII names; keys of two folders are two samples."""
    long = "d.ir/" + "x" * 90
    write_tar(tmp_path / "0.tar", [
        ("./d.ir/a.seg.png", png(99)), ("./d.ir/a.cls", b"1"), ("./d.ir/a.JPG", png(1)), ("./d.ir/a.webp", png(98)),
        ("._a.png", b"junk"), ("__MACOSX/a.png", b"junk"), ("d.ir/ä.png", png(2)), (f"{long}.png", png(3)),
        ("e/a.png", png(4)), ("e/a.cls", b" 3 \n"), ("d.ir/ä.cls", b"0"), (f"{long}.cls", b"2"), ("e/b.cls", b"9"),
    ], form)
    source = build_source("webdataset", tmp_path)
    assert grays(source) == [1, 2, 3, 4]
    assert source.labels.tolist() == [1, 0, 2, 3]
    assert source.name(1).endswith("d.ir/ä.png")


def test_samples_without_labels(tmp_path):
    """Pretraining needs none; where only some have one, the set has no labels."""
    write_tar(tmp_path / "none" / "0.tar", [("a.png", png(0))])
    write_tar(tmp_path / "some" / "0.tar", [("a.png", png(0)), ("a.cls", b"1"), ("b.png", png(1))])
    for folder in ("none", "some"):
        source = build_source("webdataset", tmp_path / folder)
        assert source.labels is source.classes is None
        with pytest.raises(ValueError, match="has no labels"):
            labelled(source)


def test_bad_labels_are_named(tmp_path):
    """Shard and file are in the message; a label beyond the given classes, too, is refused."""
    write_tar(tmp_path / "7.tar", [("a.png", png(0)), ("a.cls", b"cat")])
    with pytest.raises(ValueError, match="7.tar: a.cls holds 'cat'"):
        build_source("webdataset", tmp_path)
    write_shards(tmp_path / "train", count=1)
    assert build_source(dict(type="webdataset", classes=list("abcde")), tmp_path, "train").classes == tuple("abcde")
    with pytest.raises(ValueError, match="label 3 is out of range for 3 classes"):
        build_source(dict(type="webdataset", classes=3), tmp_path, "train")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("a{0..1}b{5..6}", ["a0b5", "a0b6", "a1b5", "a1b6"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces(pattern, names):
    """Numbers keep the width of the first; ranges combine."""
    assert expand_braces(pattern) == names


def test_shards_by_pattern(tmp_path):
    """A pattern picks shards, with the split as sub-folder or in the name; missing ones are named."""
    write_shards(tmp_path / "val")
    spec = dict(type="webdataset", shards="{000001..000002}.tar")
    assert grays(build_source(spec, tmp_path, "val")) == [10, 11, 12, 13, 20, 21, 22, 23]
    (tmp_path / "val" / "000000.tar").rename(tmp_path / "set-val-0.tar")
    assert grays(build_source(dict(spec, shards="set-{split}-{0..0}.tar"), tmp_path, "val")) == [0, 1, 2, 3]
    for options, split, message in ((dict(shards="{000000..000003}.tar"), "val", ": 000000.tar, 000003.tar;"),
                                    ({}, "test", "does not hold"), (dict(window=0), "val", "window is 0")):
        with pytest.raises(ValueError, match=message):
            build_source(dict(type="webdataset", **options), tmp_path, split)


def test_a_truncated_shard_gives_what_it_has(tmp_path, warnings_of_shards):
    """However many bytes are missing: every complete image is there and decodes, and the shard is named, each time."""
    whole = write_shards(tmp_path / "whole", count=1) / "000000.tar"
    content, (index, damage) = whole.read_bytes(), shards.read_index(whole)
    assert damage == ""
    last_header = int(index["offsets"][-1]) - 512
    write_tar(tmp_path / "cut" / "other.tar", [("o.png", png(77))])
    # in the last image's data, at and in its header, at the end mark
    for size in (last_header + 521, last_header, last_header + 100, 700, 0):
        (tmp_path / "cut" / "000000.tar").write_bytes(content[:size])
        complete = int((index["offsets"] + index["sizes"] <= size).sum())
        warnings_of_shards.clear()
        for _ in range(2):
            assert grays(build_source("webdataset", tmp_path / "cut")) == [*range(complete), 77], size
        assert len(warnings_of_shards) == 2
        assert "000000.tar is truncated or damaged" in warnings_of_shards[0]
        assert f"its {complete} readable samples" in warnings_of_shards[0]


def test_foreign_files_are_not_shards(tmp_path):
    """Packed and other files are refused; shards without images too, such as those of keys with dots."""
    write_tar(tmp_path / "0.tar", [("00.01.jpg", png(1))])
    with pytest.raises(ValueError, match="holds no image.*no dot in the key"):
        build_source("webdataset", tmp_path)
    for content in (gzip.compress(bytes(range(256)) * 40), b"no tar" * 200):
        (tmp_path / "0.tar").write_bytes(content + bytes(600))
        with pytest.raises(ValueError, match="0.tar is not a tar archive"):
            build_source("webdataset", tmp_path)


def test_corrupt_and_vanished_samples(tmp_path):
    """The message holds shard and file name, whether the bytes are not an image or the shard is gone."""
    shard = write_tar(tmp_path / "0.tar", [("a.jpg", b"\xff\xd8 no image"), ("b.png", b""), ("c.png", png(1))])
    source = build_source("webdataset", tmp_path)
    for index, name in ((0, "0.tar: a.jpg cannot be decoded"), (1, "b.png cannot be decoded")):
        with pytest.raises(CorruptImageError, match=name):
            source.load(index)
    shard.unlink()
    with pytest.raises(CorruptImageError, match="c.png cannot be read"):
        source.load(2)


def test_headers_are_read_once(tmp_path, indexed):
    """A second source reads no header; a shard of another size or time is read again, and it alone."""
    first = build_source("webdataset", write_shards(tmp_path / "set"))
    assert sorted(indexed) == ["000000.tar", "000001.tar", "000002.tar"]
    indexed.clear()
    second = build_source("webdataset", tmp_path / "set")
    assert (indexed, grays(second), second.labels.tolist()) == ([], grays(first), first.labels.tolist())
    assert [second.name(i) for i in range(12)] == [first.name(i) for i in range(12)]
    shard = tmp_path / "set" / "000001.tar"
    stat = shard.stat()
    write_tar(shard, [("z.png", png(50)), ("z.cls", b"1")])
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # another size alone
    assert grays(build_source("webdataset", tmp_path / "set")) == [0, 1, 2, 3, 50, 20, 21, 22, 23]
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # another time alone
    build_source("webdataset", tmp_path / "set")
    assert indexed == ["000001.tar", "000001.tar"]


def test_a_damaged_cache_is_made_again(tmp_path, indexed):
    """Whatever is in the file, and no partial files are left."""
    write_shards(tmp_path / "set", count=1)
    build_source("webdataset", tmp_path / "set")
    cache = tmp_path / "set" / ".loco_det_index" / "000000.tar.npz"
    for damage in (b"", b"junk", cache.read_bytes()[:300]):
        indexed.clear()
        cache.write_bytes(damage)
        assert len(build_source("webdataset", tmp_path / "set")) == 4
        assert indexed == ["000000.tar"]
    assert [file.name for file in cache.parent.iterdir()] == [cache.name]


def test_the_cache_moves_where_it_may_be_written(tmp_path, indexed, monkeypatch):
    """The user's cache folder serves where the shards' folder is read-only; where that fails too, there is no cache."""
    write_shards(tmp_path / "set", count=1)
    monkeypatch.setattr(shards.os, "access", lambda *_: False)
    for _ in range(2):
        assert len(build_source("webdataset", tmp_path / "set")) == 4
    assert indexed == ["000000.tar"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "set" / "000000.tar"))
    for _ in range(2):
        assert len(build_source("webdataset", tmp_path / "set")) == 4
    assert indexed == ["000000.tar"] * 3


def test_an_epoch_reads_a_window_of_shards_at_a_time(tmp_path):
    """Each index once; every run of samples lies in ``window`` shards, other ones each epoch; the samples are mixed."""
    write_shards(tmp_path, count=5)
    source = build_source(dict(type="webdataset", window=2), tmp_path)
    orders = [source.epoch_order(np.random.default_rng([0, epoch])) for epoch in (0, 1, 0)]
    assert np.array_equal(orders[0], orders[2]) and not np.array_equal(orders[0], orders[1])
    for order in orders[:2]:
        assert sorted(order) == list(range(20))
        windows = [set(order[start : start + 8] // 4) for start in (0, 8, 16)]
        assert [len(window) for window in windows] == [2, 2, 1]
        assert np.any(np.diff(order[:8] // 4, 2) != 0)
    assert {frozenset(orders[0][:8] // 4)} != {frozenset(orders[1][:8] // 4)}


def test_workers_read_the_same_views_as_one_process(tmp_path):
    """The keys decide, not who reads."""
    dataset = TwoViewImages(write_shards(tmp_path, samples=8), dict(size=16), source=dict(type="webdataset", window=2))
    sampler = KeyedSampler(dataset, seed=5)
    alone, shared = ([batch["views"] for batch in DataLoader(dataset, 3, sampler=sampler, num_workers=workers)]
                     for workers in (0, 2))
    assert len(alone) == 8
    assert all(bool((a == b).all()) for a, b in zip(alone, shared, strict=True))
    assert dataset.corrupt.sum() == 0
