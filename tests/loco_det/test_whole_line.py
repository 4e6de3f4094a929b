"""Two variants of every kind through the whole line: pretrain, export, evaluate, detect, tables, figures, report.

Each has a row and a label of its own everywhere, an objective and a rule of a user's own among them, and nothing that lies
in a work directory is executed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from loco_det.experiment.experiment import run_experiments
from loco_det.report.render import write_report
from pretrain.engine.checkpoints import export_backbone
from pretrain.eval.evaluate import evaluate
from pretrain.figures.curves import draw_curves
from pretrain.figures.unit_text import read_model, rule_layout
from pretrain.results.formats import numbers, table_text
from pretrain.results.store import read_rows
from pretrain.results.table import results_table
from pretrain.run import pretrain, use_data_root
from tests.conftest import ROOT
from tests.pretrain.eval.synthetic import write_class_folders

pytestmark = pytest.mark.slow

PRETRAINING = {
    "model.encoder": dict(type="resnet18", width=8), "train_cfg.max_epochs": 1, "train_dataloader.batch_size": 4,
    "train_dataloader.num_workers": 0, "train_dataloader.persistent_workers": False, "param_scheduler": None,
    "train_dataloader.dataset.views.size": 32, "default_hooks.logger.interval": 1,
}
DETECTION = {
    "protocol.split_size": 6, "protocol.num_splits": 2, "train_cfg.max_iters": 1, "param_scheduler": None,
    "model.backbone.cache_mib": 0, "default_hooks.logger.interval": 1,
}
OWN = dict(imports=["pretrain.run", "tests.pretrain.custom_method"])
VARIANTS = {  # label -> base config, and what is different
    "SimCLR": ("simclr", {}),
    "SimCLR, 1 conv block": ("simclr", {"model.head.conv_blocks": 1}),
    "LoCo": ("loco", {}),
    "LoCo, window 3": ("loco", {"model.rule.window": 3}),
    "LoCo, no res2 loss": ("loco", {"model.rule.res2_loss": False}),
    "LoCo, learned scale": ("loco", {"custom_imports": OWN, "model.objective": dict(type="LearnedScale")}),
    "LoCo, learned scale, weight=0.5": ("loco", {"custom_imports": OWN,
                                                 "model.objective": dict(type="LearnedScale", weight=0.5)}),
    "halves, 1 conv block": ("loco", {"custom_imports": OWN, "model.rule": dict(type="halves")}),
    "decoupled, K = 4": ("decoupled", {"model.rule": dict(type="decoupled", k=4)}),
    "decoupled, K = 8": ("decoupled", {"model.rule": dict(type="decoupled", k=8)}),
    "decoupled, K = 4, T = 0": ("decoupled", {"model.rule": dict(type="decoupled", k=4), "model.objective.threshold": 0.0}),
    "decoupled, K = 4, T = 0.3": ("decoupled", {"model.rule": dict(type="decoupled", k=4),
                                                "model.objective.threshold": 0.3}),
    "my rule": ("gim", {"model.method_name": "my rule"}),
    "my other rule": ("gim", {"model.method_name": "my other rule", "train_dataloader.batch_size": 6}),
}
DECOUPLED = {"model.head": dict(conv_blocks="plain_conv", norm="none"),
             "model.objective": dict(type="NTXent", temperature=0.5)}


def replaced(config: Config, options: dict) -> Config:
    """The config with values in the place of others, whole dicts included."""
    plain = config.to_dict()
    for name, value in options.items():
        *parents, last = name.split(".")
        place = plain
        for parent in parents:
            place = place[parent]
        place[last] = dict(value) if isinstance(value, dict) else value
    return Config(plain)


def pretrained(folder: Path, images: Path, base: str, options: dict) -> Path:
    """The exported backbone of one short epoch."""
    rule = "gim" if base == "decoupled" else base
    config = Config.fromfile(str(ROOT / f"configs/pretrain/{rule}_resnet18_demo.py"), import_custom_modules=False)
    config = replaced(config, {**PRETRAINING, **(DECOUPLED if base == "decoupled" else {}), **options})
    use_data_root(config, str(images))
    config.work_dir = str(folder / "pretrain")
    export_backbone(pretrain(config), folder / f"{folder.name}.pth")
    return folder / f"{folder.name}.pth"


def detected(folder: Path, data: Path, backbone: Path) -> None:
    """One iteration on each of two splits with the config that takes any backbone."""
    config = Config.fromfile(str(ROOT / "configs/mask_rcnn_demo.py"), import_custom_modules=False)
    config = replaced(config, {**DETECTION, "data.root": str(data), "pretrained.checkpoint": str(backbone)})
    config.pop("synthetic_data")
    config.config_file, config.work_dir = "configs/mask_rcnn_demo.py", str(folder / "detect")
    run_experiments([config])


@pytest.fixture(scope="module")
def line(tmp_path_factory, synthetic_root) -> Path:
    """Every variant, each in a folder of its own."""
    root = tmp_path_factory.mktemp("line")
    labelled = write_class_folders(tmp_path_factory.mktemp("labelled"))
    for place, (base, options) in enumerate(VARIANTS.values()):
        folder = root / f"variant{place}"
        backbone = pretrained(folder, synthetic_root / "unlabeled2017", base, options)
        evaluate(str(backbone), "knn", data_root=str(labelled), workers=0, k=3)
        detected(folder, synthetic_root, backbone)
    return root


def test_every_variant_has_its_own_row(line):
    """With its own label, finished splits and accuracy; differences are to SimCLR."""
    table, warnings = results_table([line])
    assert warnings == []
    assert sorted(row.labels[0] for row in table.rows) == sorted(VARIANTS)
    shown = numbers(table)
    for label in VARIANTS:
        of_label = {row["metric"]: row for row in shown if row["method"] == label}
        assert {name: (row["n"], row["of"]) for name, row in of_label.items()} == {
            "bbox_AP": (2, 2), "segm_AP": (2, 2), "top1": (1, 1)}
        assert (of_label["top1"]["delta"] is None) == (label == "SimCLR")


def test_what_else_differs_from_the_baseline_is_listed(line):
    """The batch of one variant, the temperature of the decoupled ones, the user's objective."""
    notes = results_table([line])[0].notes
    for label, words in (("my other rule", "batch_size 6"), ("decoupled, K = 8", "temperature 0.5"),
                         ("LoCo, learned scale", "LearnedScale")):
        assert any(note.startswith(f"{label} ") and words in note for note in notes), (label, notes)
    assert not any(note.startswith("LoCo, window 3") for note in notes)  # the same but for the rule


def test_every_format_and_class(line):
    """Nothing is lost on the way to text."""
    table, _ = results_table([line])
    for fmt in ("text", "markdown", "csv", "json", "latex"):
        text = table_text(table, fmt)
        assert all(label.replace("_", r"\_" if fmt == "latex" else "_") in text for label in VARIANTS)
    by_class, _ = results_table([line], per_class=True)
    assert len(by_class.rows) == 4 and len(by_class.columns) == 2 * len(VARIANTS)


def test_frame_has_everything_of_every_run(line):
    """Pretraining, evaluation and detection, each with its command line and seed."""
    frame, records, _ = read_rows([line])
    assert set(frame["kind"]) == {"pretraining", "evaluation", "detection"}
    assert frame["method_key"].nunique() == len(VARIANTS)
    assert all(record.content["argv"] and record.content["duration_s"] is not None
               for record in records if record.content["rows"])
    own = frame[(frame["method"] == "LoCo, learned scale") & (frame["kind"] == "pretraining")]
    assert set(own["metric"]) == {"loss", "spread"}


def test_no_figure_calls_an_objective_by_anothers_name(line):
    """Captions, titles and units are the objective's own."""
    places = {label: line / f"variant{place}" for place, label in enumerate(VARIANTS)}
    own = draw_curves([places["LoCo, learned scale"] / "pretrain"])
    assert set(own) == {"curves", "curves_spread", "curves_learning_rate", "curves_throughput"}
    for drawing in own.values():
        words = [drawing.caption, *(text for axes in drawing.figure.axes for text in (axes.get_ylabel(), axes.get_title()))]
        assert not any(wrong in word for word in words for wrong in ("NT-Xent", "nats", "ontrastive"))
    assert "learned scale" in own["curves"].caption
    both = draw_curves([places["LoCo"] / "pretrain", places["LoCo, learned scale"] / "pretrain"])["curves"]
    assert "learned scale" in both.caption
    for label, folder in places.items():
        assert rule_layout(read_model(folder / f"{folder.name}.pth")).method.label == label


def test_the_report_shows_all_and_executes_nothing(line, tmp_path):
    """A row and a command for every run; code in every place that was once read leaves no mark."""
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w').close()\n"
    for folder in [folder for pattern in ("*", "*/pretrain/*/vis_data", "*/detect", "*/detect/split_*")
                   for folder in line.glob(pattern) if folder.is_dir()]:
        for name in ("config.py", "zzz.py", "conftest.py"):
            (folder / name).write_text(code)
    page = write_report([line], tmp_path / "report.html", gallery=1).read_text()
    assert not mark.exists()
    for label in VARIANTS:
        assert label in page
    record = json.loads((line / "variant0" / "pretrain" / "run.json").read_text())
    assert record["argv"][0].split("/")[-1] in page
