"""Tar shards: an exact index, whatever the archive holds; a cache that is never stale; reading that stays local."""

from __future__ import annotations

import gzip
import io
import multiprocessing
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from pretrain.data import tar_index, tar_shards
from pretrain.data.dataset import KeyedSampler, TwoViewImages
from pretrain.data.decoding import CorruptImageError
from pretrain.data.sources import build_source, labelled
from pretrain.data.tar_shards import expand_braces


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
def own_cache_folder(tmp_path, monkeypatch):
    """The user's cache is left alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))


@pytest.fixture
def warnings_of_shards(monkeypatch):
    """Collects the messages that the module prints to the log."""
    messages = []
    monkeypatch.setattr(tar_shards, "print_log", lambda message, logger, level: messages.append(message))
    return messages


@pytest.fixture
def indexed(monkeypatch):
    """The names of the shards whose headers are read, in sorted order."""
    read, names = tar_index.read_index, []
    monkeypatch.setattr(tar_index, "read_index", lambda shard: names.append(shard.name) or read(shard))
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
    """Masks (a.seg.png), hidden files, folders with dots, long and non-ASCII names; keys of two folders are two samples."""
    long = "d.ir/" + "x" * 90
    write_tar(tmp_path / "0.tar", [
        ("d.ir/a.seg.png", png(99)), ("d.ir/a.cls", b"1"), ("d.ir/a.JPG", png(1)), ("d.ir/a.webp", png(98)),
        ("._a.png", b"junk"), ("d.ir/ä.png", png(2)), (f"{long}.png", png(3)), ("e/a.png", png(4)),
        ("e/a.cls", b" 3 \n"), ("d.ir/ä.cls", b"0"), (f"{long}.cls", b"2"), ("e/b.cls", b"9"), ("e/b.txt", b"no image"),
    ], form)
    source = build_source("webdataset", tmp_path)
    assert grays(source) == [1, 2, 3, 4]
    assert source.labels.tolist() == [1, 0, 2, 3]
    assert source.name(1).endswith("d.ir/ä.png")


def test_samples_without_labels(tmp_path):
    """Pretraining needs none; if only some are missing, the message counts and names them."""
    write_tar(tmp_path / "none" / "0.tar", [("a.png", png(0))])
    write_tar(tmp_path / "some" / "0.tar", [("a.png", png(0)), ("a.cls", b"1"), ("b.png", png(1))])
    for folder, message in (("none", "has no labels; add a <key>.cls"), ("some", "1 of 2 samples have no .cls, .*b.png")):
        source = build_source("webdataset", tmp_path / folder)
        assert source.labels is source.classes is None
        with pytest.raises(ValueError, match=message):
            labelled(source)


@pytest.mark.parametrize("label", [b"", b"cat", b"-1", b"1.0", b"9" * 19])
def test_bad_labels_are_named(tmp_path, label):
    """Shard and file are in the message."""
    write_tar(tmp_path / "7.tar", [("a.png", png(0)), ("a.cls", label)])
    with pytest.raises(ValueError, match="7.tar: a.cls holds .*; a label is an integer from 0"):
        build_source("webdataset", tmp_path)


def test_classes(tmp_path):
    """Names or a number may be given; a label beyond them is out of range; a split has the classes of train."""
    write_shards(tmp_path / "train", count=1)
    write_shards(tmp_path / "val", count=1, samples=2)
    assert build_source(dict(type="webdataset", classes=list("abcde")), tmp_path, "val").classes == tuple("abcde")
    assert build_source("webdataset", tmp_path, "val").classes == ("0", "1", "2", "3")
    with pytest.raises(ValueError, match="train/000000.tar: 0/003.png has the label 3, which is out of range for 3 classes"):
        build_source(dict(type="webdataset", classes=3), tmp_path, "train")
    write_tar(tmp_path / "val" / "000001.tar", [("x.png", png(0)), ("x.cls", b"4")])
    with pytest.raises(ValueError, match="val/000001.tar: x.png has the label 4, which is out of range for 4 classes"):
        build_source("webdataset", tmp_path, "val")


# Which shards


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{9..10}", ["9", "10"]),
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
    assert len(build_source(dict(spec, shards="00000{0..0}.tar"), tmp_path / "val")) == 4
    (tmp_path / "val" / "000000.tar").rename(tmp_path / "set-val-0.tar")
    assert grays(build_source(dict(spec, shards="set-{split}-{0..0}.tar"), tmp_path, "val")) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="2 of the 4 shards '{000000..000003}.tar' are missing .*: 000000.tar, 000003.tar;"):
        build_source(dict(spec, shards="{000000..000003}.tar"), tmp_path, "val")
    with pytest.raises(ValueError, match="no split is given"):
        build_source(dict(spec, shards="set-{split}-{0..0}.tar"), tmp_path)


@pytest.mark.parametrize(
    ("options", "split", "message"),
    [
        ({}, "val", "folder of tar shards .*val does not exist"),
        ({}, None, "holds no .tar file"),
        (dict(shards="{5..2}.tar"), None, r"range \{5..2\} .*write \{2..5\}"),
        (dict(window=0), None, "window is 0"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, split, message):
    """The value and the mend."""
    with pytest.raises(ValueError, match=message):
        build_source(dict(type="webdataset", **options), tmp_path, split)


# Damage


def test_a_truncated_shard_gives_what_it_has(tmp_path, warnings_of_shards):
    """However many bytes are missing: every complete sample is there and decodes, and the shard is named."""
    whole = write_shards(tmp_path / "whole", count=1) / "000000.tar"
    content = whole.read_bytes()
    index = tar_index.read_index(whole)
    last_header = int(index.offsets[-1]) - 512
    write_tar(tmp_path / "cut" / "other.tar", [("o.png", png(77)), ("o.cls", b"0")])
    # in the padding, in the last image's data, at and in its header, at the end mark, in a label's data
    for size in (int(index.offsets[-1] + index.sizes[-1]) + 1, int(index.offsets[-1]) + 9, last_header, last_header + 100,
                 int(index.offsets[1]) - 600, 700, 0):
        (tmp_path / "cut" / "000000.tar").write_bytes(content[:size])
        warnings_of_shards.clear()
        source = build_source("webdataset", tmp_path / "cut")
        # a sample is complete if its image and the label behind it (a header and a block of data) are
        complete = sum(offset + -(-length // 512) * 512 + 512 + 2 <= size
                       for offset, length in zip(index.offsets, index.sizes, strict=True))
        assert grays(source) == [*range(complete), 77], size
        assert source.labels.tolist() == [*range(complete), 0]
        assert len(warnings_of_shards) == 1
        assert "000000.tar is truncated or damaged" in warnings_of_shards[0]
        assert f"its {complete} readable samples" in warnings_of_shards[0]


def test_a_cut_at_a_file_boundary_is_noticed(tmp_path, warnings_of_shards):
    """Only the end mark is missing: the samples before are all there, yet more may have been; told from the cache too."""
    whole = write_shards(tmp_path, count=1) / "000000.tar"
    index = tar_index.read_index(whole)
    whole.write_bytes(whole.read_bytes()[: int(index.offsets[3]) - 512])
    for _ in range(2):
        assert len(build_source("webdataset", tmp_path)) == 3
    assert len(warnings_of_shards) == 2
    assert "no end mark" in warnings_of_shards[0]


def test_foreign_files_are_no_shards(tmp_path):
    """Packed and other files are refused; shards without images too."""
    write_tar(tmp_path / "0.tar", [("a.txt", b"x")])
    with pytest.raises(ValueError, match=r"\(1 shards, 0.tar to 0.tar\) holds no image"):
        build_source("webdataset", tmp_path)
    for content in (gzip.compress(bytes(range(256)) * 40), b"no tar" * 200):
        (tmp_path / "0.tar").write_bytes(content + bytes(600))
        with pytest.raises(ValueError, match="0.tar is no tar archive"):
            build_source("webdataset", tmp_path)


def test_corrupt_and_vanished_samples(tmp_path):
    """The message holds shard and file name, whether the bytes are no image or the shard is gone."""
    shard = write_tar(tmp_path / "0.tar", [("a.jpg", b"\xff\xd8 no image"), ("b.png", b""), ("c.png", png(1))])
    source = build_source("webdataset", tmp_path)
    for index, reason in ((0, "0.tar: a.jpg cannot be decoded: it is in no image format"), (1, "b.png .* it is empty")):
        with pytest.raises(CorruptImageError, match=reason):
            source.load(index)
    shard.unlink()
    with pytest.raises(CorruptImageError, match="c.png cannot be read"):
        build_source("webdataset", write_shards(tmp_path / "new", 1)).__class__.load(pickle.loads(pickle.dumps(source)), 2)


@pytest.mark.parametrize("opened", [False, True])
def test_a_shard_that_changes_under_its_source_is_refused(tmp_path, opened):
    """Rewritten in place, of the same size or another, before its first read or while it is open: no old offset is decoded.

    Its new time is set: two writes may come within one tick of the file system's clock.
    """
    folder = write_shards(tmp_path, count=2)
    shard, other = folder / "000000.tar", folder / "000001.tar"
    for content in (other.read_bytes(), shard.read_bytes() + bytes(10240)):
        source = build_source("webdataset", folder)
        if opened:
            source.load(1)
        written = shard.stat().st_mtime_ns
        shard.write_bytes(content)
        os.utime(shard, ns=(written, written + 10**7))
        with pytest.raises(ValueError, match="000000.tar has been changed since it was indexed") as refused:
            pickle.loads(pickle.dumps(source)).load(1) if not opened else source.load(1)
        assert not isinstance(refused.value, CorruptImageError)  # which pretraining would replace by another image
        assert np.asarray(source.load(5)).max() == 11
    assert len(build_source("webdataset", folder)) == 8


def test_hidden_folders_of_an_archive_are_left_alone(tmp_path):
    """As in any folder; "./" before a name hides nothing."""
    write_tar(tmp_path / "0.tar", [("./a/1.png", png(1)), ("./.trash/2.png", png(2)), ("__MACOSX/a/1.png", png(3)),
                                   ("../b/4.gif", png(4))])
    assert grays(build_source("webdataset", tmp_path)) == [1, 4]


# The cache


def test_headers_are_read_once(tmp_path, indexed):
    """A second source reads no header; a shard of another size, time or content is read again, and it alone."""
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


def test_a_damaged_cache_is_made_anew(tmp_path, indexed):
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


def test_the_cache_moves_where_it_may_be_written(tmp_path, indexed):
    """Beside the shards nothing can be made: the user's cache folder serves; where that fails too, there is no cache."""
    write_shards(tmp_path / "set", count=1)
    (tmp_path / "set" / ".loco_det_index").write_text("a file in the way, as for a folder without permission")
    for _ in range(2):
        assert len(build_source("webdataset", tmp_path / "set")) == 4
    assert indexed == ["000000.tar"]
    cache = tmp_path / "user_cache" / "loco_det"
    assert len(list(cache.rglob("000000.tar.npz"))) == 1
    os.rename(cache, tmp_path / "moved")
    cache.write_text("in the way too")
    for _ in range(2):
        assert len(build_source("webdataset", tmp_path / "set")) == 4
    assert indexed == ["000000.tar"] * 3


# Order and workers


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
        assert sorted(order[:8]) != order[:8].tolist()
        assert np.any(np.diff(order[:8] // 4, 2) != 0)
    assert {frozenset(orders[0][:8] // 4)} != {frozenset(orders[1][:8] // 4)}


def test_a_wide_window_is_a_full_shuffle(tmp_path):
    """With all shards in the window every sample comes first about equally often."""
    write_shards(tmp_path, count=3)
    source = build_source("webdataset", tmp_path)
    firsts = [source.epoch_order(np.random.default_rng(seed))[0] for seed in range(1200)]
    counts = np.bincount(firsts, minlength=12)
    assert ((counts - 100) ** 2 / 100).sum() < 31.3  # chi square with 11 degrees of freedom, p = 0.001


def test_workers_read_the_same_views_as_one_process(tmp_path):
    """The keys decide, not who reads, nor what was open before the workers started."""
    dataset = TwoViewImages(write_shards(tmp_path, samples=8), dict(size=16), source=dict(type="webdataset", window=2))
    dataset.source.load(0)
    sampler = KeyedSampler(dataset, seed=5)
    alone, shared = ([batch["views"] for batch in DataLoader(dataset, 3, sampler=sampler, num_workers=workers)]
                     for workers in (0, 2))
    assert len(alone) == 8
    assert all(bool((a == b).all()) for a, b in zip(alone, shared, strict=True))
    assert dataset.corrupt.sum() == 0


def test_a_forked_process_opens_its_own_files(tmp_path):
    """A child's read does not move the position of a file that the parent has open: between its seek and read, it could."""
    source = build_source("webdataset", write_shards(tmp_path, count=1))
    source.load(0)
    opened = source._shards._open[0]
    position = opened.tell()
    child = multiprocessing.get_context("fork").Process(target=source.load, args=(3,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert opened.tell() == position


def test_few_files_stay_open(tmp_path, monkeypatch):
    """The longest unused file is closed; reading goes on."""
    source = build_source("webdataset", write_shards(tmp_path, count=4))
    monkeypatch.setattr(source._shards, "limit", 2)
    assert [np.asarray(source.load(index)).max() for index in (0, 4, 0, 8, 12, 5, 1)] == [0, 10, 0, 20, 30, 11, 1]
    assert sorted(source._shards._open) == [0, 1]
