"""Which results an accuracy table averages, and which it keeps apart."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from pretrain.readout.published import GIM, LOCO, SIMCLR
from pretrain.readout.report import accuracy_report
from tests.pretrain.readout.tables import json_rows, row_of, table_lines
from tests.pretrain.readout.written import STAGES, pretraining_record, write_random, write_result


def test_seeds_are_averaged(tmp_path):
    """Mean and sample deviation as the statistics module has them, the difference of the means, and the count."""
    scores = {SIMCLR: [65.1, 66.0, 65.4], LOCO: [66.3, 65.9]}
    for config, values in scores.items():
        for seed, value in enumerate(values):
            meta = pretraining_record(config, seed=seed, encoder=dict(type="resnet50"))
            write_result(tmp_path / f"{Path(config).stem}{seed}.json", value, meta)
    assert accuracy_report([tmp_path], 1).warnings == []
    rows = json_rows([tmp_path], 1)
    simclr, loco = (row_of(rows, method=name, architecture="ResNet-50") for name in ("SimCLR", "LoCo (Ours)"))
    for row, config in ((simclr, SIMCLR), (loco, LOCO)):
        assert row["mean"] == pytest.approx(statistics.mean(scores[config]))
        assert row["std"] == pytest.approx(statistics.stdev(scores[config]))
        assert row["runs"] == len(scores[config])
    assert simclr["delta"] is None
    assert loco["delta"] == pytest.approx(statistics.mean(scores[LOCO]) - statistics.mean(scores[SIMCLR]))
    assert ["LoCo (Ours)", "ResNet-50", "✓", "66.1 ± 0.3 (+0.6) (2 runs)"] in table_lines([tmp_path], 1)


def test_pretrainings_are_counted_not_readouts(tmp_path):
    """Three readouts of one pretraining and one of another: mean and deviation are over two, the first being its own mean.

    Random encoders are as many as they have seeds.
    """
    for seed, values in enumerate(([60.0, 61.0, 65.0], [66.0])):
        meta = pretraining_record(SIMCLR, seed=seed, encoder=dict(type="resnet50"))
        for readout_seed, value in enumerate(values):
            write_result(tmp_path / f"{seed}_{readout_seed}.json", value, meta, seed=readout_seed)
    for seed, value in enumerate((4.0, 8.0)):
        write_random(tmp_path / f"random{seed}.json", value, seed=seed)
    rows = json_rows([tmp_path], 1)
    simclr, random = (row_of(rows, method=name, architecture="ResNet-50") for name in ("SimCLR", "Random"))
    assert (simclr["mean"], simclr["std"], simclr["runs"]) == (64.0, pytest.approx(statistics.stdev([62.0, 66.0])), 2)
    assert (random["mean"], random["runs"]) == (6.0, 2)


@pytest.mark.parametrize("option, value, told", [
    ("model.temperature", 0.5, ["temperature=0.1", "temperature=0.5"]),
    ("train_dataloader.batch_size", 256, ["batch_size=256", "batch_size=4096"]),
    ("train_dataloader.dataset.views.size", 96, ["size=224", "size=96"]),
    ("train_dataloader.dataset.views.blur", 0.0, ["blur=0.0", "blur=0.5"]),
    ("train_dataloader.dataset.data_root", "/elsewhere/pets", ["root=imagenet", "root=pets"]),
    ("train_dataloader.dataset.source", "folder", ["source=folder", "source=imagenet"]),
    ("optim_wrapper.lr_scaling.base_lr", 0.1, ["base_lr=0.1", "base_lr=0.3"]),
    ("optim_wrapper.optimizer.weight_decay", 1e-4, ["weight_decay=0.0001", "weight_decay=1e-06"]),
    ("optim_wrapper.paramwise_cfg.exclude_norm_and_bias", False,
     ["exclude_norm_and_bias=False", "exclude_norm_and_bias=True"]),
    ("param_scheduler.0.end", 20, ["param_scheduler.0.end=10", "param_scheduler.0.end=20"]),
    ("model.autocast", "bfloat16", ["precision=bfloat16", "precision=float32"]),
])
def test_settings_of_pretraining_have_columns_of_their_own(tmp_path, option, value, told):
    """Runs of one recipe with another hyper-parameter or other data are not averaged, and the titles say which is which."""
    for index, options in enumerate(({}, {option: value})):
        meta = pretraining_record(SIMCLR, seed=index, options=options, encoder=dict(type="resnet50"))
        write_result(tmp_path / f"{index}.json", 60.0 + index, meta)
    lines = table_lines([tmp_path], 1)
    assert lines[0][3:] == [f"CIFAR-10 linear, 100 epochs, pretraining: {setting}" for setting in told]
    assert sorted(lines[4][3:]) == ["60.0", "61.0"]


def test_settings_are_compared_in_normal_form(tmp_path):
    """How a run is carried out, folders above the data, and an option's default or the option itself make no column."""
    same = [
        {},
        {"model.channels_last": True, "train_dataloader.num_workers": 2, "train_dataloader.dataset.cache": True},
        {"train_dataloader.dataset.data_root": "/elsewhere/imagenet", "optim_wrapper.optimizer.trust_coefficient": 0.001},
        {"train_dataloader.dataset.views": dict(_delete_=True, size=224), "model.autocast": None},
    ]
    for seed, options in enumerate(same):
        meta = pretraining_record(SIMCLR, seed=seed, options=options, encoder=dict(type="resnet50"))
        write_result(tmp_path / f"{seed}.json", 60.0, meta)
    assert table_lines([tmp_path], 1)[0][3:] == ["CIFAR-10 linear, 100 epochs"]
    row = row_of(json_rows([tmp_path], 1), method="SimCLR", architecture="ResNet-50")
    assert row["runs"] == len(same)


def test_other_pretraining_images_have_columns_of_their_own(tmp_path):
    """Checkpoints tell how many images were trained on: two folders of one name are not one."""
    for seed, number in enumerate((100, 200)):
        meta = pretraining_record(SIMCLR, seed=seed, encoder=dict(type="resnet50")) | {"num_images": number}
        write_result(tmp_path / f"{seed}.json", 60.0, meta)
    assert table_lines([tmp_path], 1)[0][3:] == [
        f"CIFAR-10 linear, 100 epochs, pretraining: num_images={number}" for number in (100, 200)]


def test_another_optimizer_is_told_with_its_own_options(tmp_path):
    """The title of a column names what its optimizer has, and not what only the other's has."""
    adam = {"optim_wrapper": dict(_delete_=True, type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.002))}
    for index, options in enumerate((adam, {})):
        meta = pretraining_record(SIMCLR, options=options, encoder=dict(type="resnet50"))
        write_result(tmp_path / f"{index}.json", 60.0 + index, meta)
    titles = table_lines([tmp_path], 1)[0][3:]
    (told,) = [title for title in titles if "AdamW" in title]
    assert told == "CIFAR-10 linear, 100 epochs, pretraining: lr=0.002, optimizer.type=AdamW"
    (told,) = [title for title in titles if "LARS" in title]
    assert "base_lr=0.3" in told and "momentum=0.9" in told and "None" not in told


def test_records_without_settings_are_averaged_with_a_warning(tmp_path):
    """Checkpoints from before settings were recorded stay in the tables, apart from those whose settings are known."""
    for index in range(3):
        meta = pretraining_record(SIMCLR, seed=index, encoder=dict(type="resnet50"))
        if index < 2:
            del meta["settings"], meta["seed"]
        write_result(tmp_path / str(index) / "linear.json", 60.0 + 2 * index, meta)
    old = [tmp_path / "0", tmp_path / "1"]
    row = row_of(json_rows(old, 1), method="SimCLR", architecture="ResNet-50")
    assert (row["column"], row["mean"], row["runs"]) == ("CIFAR-10 linear, 100 epochs", 61.0, 2)
    for paths in (old, [tmp_path]):
        assert accuracy_report(paths, 1).warnings == [
            "the pretraining records of 2 results are from before settings were recorded: only rule, encoder, decoder and "
            "epochs were compared before these were averaged"]
    lines = table_lines([tmp_path], 1)
    assert dict(zip(lines[0][3:], lines[4][3:], strict=True)) == {
        "CIFAR-10 linear, 100 epochs": "64.0",
        "CIFAR-10 linear, 100 epochs, pretraining: settings not recorded": "61.0 ± 1.4 (2 runs)",
    }


def test_two_checkpoints_of_one_seed_are_told_and_count_once(tmp_path):
    """A pretraining that was run again with its settings and seed, say by other code, is no further repetition."""
    for index, revision in enumerate(("a" * 40, "b" * 40, "b" * 40)):
        meta = pretraining_record(SIMCLR, seed=index // 2, encoder=dict(type="resnet50")) | {"git_revision": revision}
        write_result(tmp_path / f"{index}.json", 60.0 + 2 * index, meta)
    assert accuracy_report([tmp_path], 1).warnings == [
        f"{tmp_path / '0.json'} and {tmp_path / '1.json'} are of different checkpoints, but of the same settings and seed "
        "0: counted as one run"]
    row = row_of(json_rows([tmp_path], 1), method="SimCLR", architecture="ResNet-50")
    assert (row["mean"], row["runs"]) == (statistics.mean([61.0, 64.0]), 2)


def test_a_folder_is_not_the_standard_set_of_its_name(tmp_path):
    """CIFAR-10's own files and a folder that is called so are two data sets, and so are two folders of one name."""
    meta = pretraining_record(SIMCLR, encoder=dict(type="resnet50"))
    data = [dict(source="cifar10", root="data"), dict(source="folder", root="cifar10", fingerprint="0" * 64),
            dict(source="folder", root="cifar10", fingerprint="1" * 64), dict(source="webdataset", root="cifar10")]
    for index, options in enumerate(data):
        write_result(tmp_path / f"{index}.json", 60.0 + index, meta, **options)
    lines = table_lines([tmp_path], 1)
    assert dict(zip(lines[0][3:], lines[4][3:], strict=True)) == {
        "CIFAR-10 linear, 100 epochs": "60.0",
        "cifar10 (folder) linear, 100 epochs, fingerprint=00000000…": "61.0",
        "cifar10 (folder) linear, 100 epochs, fingerprint=11111111…": "62.0",
        "cifar10 (webdataset) linear, 100 epochs": "63.0",
    }


def test_one_epoch_is_spelled_as_one(tmp_path):
    """In titles and where a pretraining is incomplete."""
    meta = pretraining_record(SIMCLR, 0, 1, encoder=dict(type="resnet50"), options={"param_scheduler": []})
    write_result(tmp_path / "0.json", 60.0, meta)
    report = accuracy_report([tmp_path], 1)
    assert "CIFAR-10 linear, 1 epoch |" in report.text and "(incomplete: at 0 of 1 epoch)" in report.text
    assert "at 0 of 1 epoch:" in report.warnings[0]


def test_what_differs_has_a_column_of_its_own(tmp_path):
    """Data set, size of the training set, kind, protocol and schedule: never averaged, told in the titles, in one order.

    The random encoder has no schedule and stands in every column of its data set and readout.
    """
    meta = pretraining_record(SIMCLR, encoder=dict(type="resnet50"))
    longer = pretraining_record(SIMCLR, 800, 800, encoder=dict(type="resnet50"))
    write_result(tmp_path / "a.json", 61.0, meta, source="stl10")
    write_result(tmp_path / "b.json", 62.0, meta, kind="knn", protocol=dict(neighbours=20))
    write_result(tmp_path / "c.json", 63.0, longer)
    write_result(tmp_path / "d.json", 64.0, meta, protocol=dict(epochs=100, lr=3.0))
    write_result(tmp_path / "e.json", 65.0, meta)
    write_result(tmp_path / "f.json", 66.0, meta, limit=500)
    write_random(tmp_path / "g.json", 5.0)
    lines = table_lines([tmp_path], 1)
    columns = {title: (random, simclr) for title, random, simclr in
               zip(lines[0][3:], lines[2][3:], lines[4][3:], strict=True)}
    assert columns == {
        "CIFAR-10 linear, 100 epochs, train_images=50000, lr=3.0": ("–", "64.0"),
        "CIFAR-10 linear, 100 epochs, train_images=50000, lr=30.0": ("5.0 (-60.0)", "65.0"),
        "CIFAR-10 linear, 100 epochs, train_images=500, lr=30.0": ("–", "66.0"),
        "CIFAR-10 linear, 800 epochs": ("5.0 (-58.0)", "63.0"),
        "CIFAR-10 kNN, 100 epochs": ("–", "62.0"),
        "STL-10 linear, 100 epochs": ("–", "61.0"),
    }
    assert lines[0][3:] == list(columns)


def test_incomplete_pretraining_is_told_but_not_averaged(tmp_path):
    """An encoder from epoch 40 of 100 changes no mean; the cell and a warning say that it is there."""
    encoder = dict(type="resnet50")
    write_result(tmp_path / "done.json", 65.0, pretraining_record(SIMCLR, encoder=encoder))
    write_result(tmp_path / "early.json", 50.0, pretraining_record(SIMCLR, 40, seed=1, encoder=encoder))
    write_result(tmp_path / "gim.json", 40.0, pretraining_record(GIM, 20, encoder=encoder))
    lines = table_lines([tmp_path], 1)
    assert lines[4][3] == "65.0 (+ 1 incomplete run left out)"
    assert lines[5][3] == "– (incomplete: at 20 of 100 epochs)"
    told = [f"{tmp_path / name} is of an incomplete pretraining, at {epoch} of 100 epochs: left out of the averages"
            for name, epoch in (("early.json", 40), ("gim.json", 20))]
    assert accuracy_report([tmp_path], 1).warnings == told
    gim = row_of(json_rows([tmp_path], 1), method="GIM", architecture="ResNet-50")
    assert (gim["mean"], gim["runs"], gim["incomplete_runs"]) == (None, 0, 1)


def test_earlier_checkpoints_of_a_complete_run_do_not_make_it_incomplete(tmp_path):
    """A pretraining that was read out along its way counts by its end alone; without an end it is one incomplete run."""
    encoder = dict(type="resnet50")
    for config, ends in ((SIMCLR, (20, 40, 100)), (GIM, (20, 40))):
        for epoch in ends:
            meta = pretraining_record(config, epoch, encoder=encoder)
            write_result(tmp_path / f"{Path(config).stem}{epoch}.json", 60.0 + epoch / 100, meta)
    lines = table_lines([tmp_path], 1)
    assert lines[4][3] == "61.0"
    assert lines[5][3] == "– (incomplete: at 40 of 100 epochs)"
    warnings = accuracy_report([tmp_path], 1).warnings
    end = tmp_path / f"{Path(SIMCLR).stem}100.json"
    assert [f"at {epoch} of 100 epochs, of the pretraining of {end}: left out of the averages" in "".join(warnings)
            for epoch in (20, 40)] == [True, True]
    rows = json_rows([tmp_path], 1)
    counts = [(row["runs"], row["incomplete_runs"]) for name in ("SimCLR", "GIM")
              for row in [row_of(rows, method=name, architecture="ResNet-50")]]
    assert counts == [(1, 0), (0, 1)]
    for seed in (1, 2):
        write_result(tmp_path / f"{seed}.json", 50.0, pretraining_record(SIMCLR, 40, seed=seed, encoder=encoder))
    assert table_lines([tmp_path], 1)[4][3] == "61.0 (+ 2 incomplete runs left out)"


def test_stages(tmp_path):
    """``all`` has a column a stage, from the bottom up, each with its own differences; ``last`` has the encoder's last."""
    for config, score in ((SIMCLR, 65.0), (LOCO, 66.0)):
        meta = pretraining_record(config, encoder=dict(type="resnet50"))
        write_result(tmp_path / f"{Path(config).stem}.json", score, meta)
    lines = table_lines([tmp_path], 1, stages="all")
    assert lines[0][3:] == [f"CIFAR-10 linear, 100 epochs: {stage}" for stage in STAGES]
    assert lines[6][3:] == ["63.0 (+1.0)", "64.0 (+1.0)", "65.0 (+1.0)", "66.0 (+1.0)"]
    assert [row["stage"] for row in json_rows([tmp_path], 1, stages="all")[:4]] == list(STAGES)
    assert table_lines([tmp_path], 1)[6][3:] == ["66.0 (+1.0)"]


def test_missing_baseline_is_told(tmp_path):
    """Without SimCLR there are no differences but a warning."""
    write_result(tmp_path / "loco.json", 66.0, pretraining_record(LOCO, encoder=dict(type="resnet50")))
    report = accuracy_report([tmp_path], 1)
    assert "| 66.0 |" in report.text
    assert report.warnings == ["no run of SimCLR, ResNet-50 in the column CIFAR-10 linear, 100 epochs: no differences there"]


def test_the_same_readout_twice_is_refused(tmp_path):
    """Copies of a result are no further readouts, and another seed of the readout is no further pretraining."""
    meta = pretraining_record(SIMCLR, encoder=dict(type="resnet50"))
    for name in ("a", "b"):
        write_result(tmp_path / f"{name}.json", 60.0, meta, sha256="1" * 64)
    with pytest.raises(ValueError, match=r"two results of the same readout: .*a\.json and .*b\.json; leave one out"):
        accuracy_report([tmp_path], 1)
    write_result(tmp_path / "b.json", 61.0, meta, sha256="1" * 64, seed=1)
    assert row_of(json_rows([tmp_path], 1), method="SimCLR", architecture="ResNet-50")["runs"] == 1
