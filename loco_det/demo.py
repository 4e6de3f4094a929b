"""The whole line on the embedded default: pretrain, export, transfer to Mask R-CNN over the splits, AP table, report.

Every step is the command that a user would type; this module only says in which order, keeps all cores busy and shows
progress. The tools themselves see what is finished already, and whether it is of the same config and data.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from tqdm import tqdm

from pretrain.engine.checkpoints import checkpoint_files
from pretrain.engine.work_dir import write_json
from pretrain.errors import RunFailedError
from pretrain.results.formats import table_text
from pretrain.results.method import shown_method
from pretrain.results.table import Table, results_table
from pretrain.results.training_log import read_training_log

ROOT = Path(__file__).resolve().parents[1]
RULES = ("loco", "simclr", "gim")  # the longest first, so that no core idles at the end
POLL_SECONDS = 0.2


@dataclass
class Step:
    """A command that runs once other steps are done.

    Attributes:
        name: for its log and messages.
        command: argument list.
        progress: how many units of work are done, read off the files written so far.
        total: all units of work.
        after: names of the steps it waits for.
    """

    name: str
    command: list[str]
    progress: Callable[[], int] = lambda: 0
    total: int = 0
    after: list[str] = field(default_factory=list)


def run_demo(work_dir: Path) -> str:
    """Runs what is not finished yet and returns the summary to print.

    Args:
        work_dir: everything but the data set is written below it; ``ap_table.json`` holds the table, ``report.html`` shows
            all of it.

    Raises:
        RunFailedError: a step failed.
    """
    began = time.monotonic()
    work_dir = work_dir.resolve()
    steps = demo_steps(work_dir)
    run_steps(steps, work_dir / "logs")
    detectors = [work_dir / step.name for step in steps if step.name.startswith("mask_rcnn")]
    table, warnings = results_table(detectors)
    write_json(work_dir / "ap_table.json", {"rows": ap_rows(table)})
    lines = ["Pretraining loss, mean of the first and of the last epoch:"]
    lines += [f"  {rule:7s} {first:.2f} -> {last:.2f}" for rule, first, last in _pretraining_losses(work_dir)]
    lines += ["", "Mask R-CNN on frozen backbones, 5 splits of the synthetic set, mean ± std (difference to SimCLR):", "",
              table_text(table, "markdown"), *(f"note: {line}" for line in table.notes),
              *(f"warning: {line}" for line in warnings),
              f"Results in {work_dir} (ap_table.json, mask_rcnn_*/run.json), {time.monotonic() - began:.0f} s",
              _report_line(work_dir)]
    return "\n".join(lines)


def ap_rows(table: Table) -> list[dict[str, Any]]:
    """The numbers of a table of AP.

    Args:
        table: the general one.

    Returns:
        A dict for each row and data set: ``method`` (such as ``loco``), ``encoder``, ``pretraining_epochs``, ``dataset``; of
        every task ``<task>_mean``, ``_std``, ``_delta`` and ``_splits`` (how many have a value); ``requested_splits``. AP in
        points; None stands for what does not exist.
    """
    rows = []
    for row in table.rows:
        setting = row.identity["setting"]
        common = dict(method=shown_method(row.identity["method"]).family, encoder=setting["encoder"]["type"],
                      pretraining_epochs=setting.get("epochs"))
        for dataset in dict.fromkeys(column.dataset for column in row.cells):
            cells = {column.metric.removesuffix("_AP"): cell
                     for column, cell in row.cells.items() if column.dataset == dataset}
            rows.append({**common, "dataset": dataset, **{
                f"{task}_{name}": value for task, cell in cells.items()
                for name, value in dict(mean=cell.mean, std=cell.std, delta=cell.delta, splits=cell.n).items()
            }, "requested_splits": max(cell.of for cell in cells.values())})
    return rows


def _report_line(work_dir: Path) -> str:
    """Writes the report and says where, or why it could not: the table, which is to be printed, matters more."""
    try:
        from loco_det.report.render import write_report

        return f"Report: {write_report([work_dir], work_dir / 'report.html')}"
    except Exception as error:  # of whatever kind
        return f"Report: not written, {type(error).__name__}: {' '.join(str(error).split())}"


def demo_steps(work_dir: Path) -> list[Step]:
    """The steps of the demo, in order of preference."""
    python, steps = [sys.executable, "-u"], []
    for rule in RULES:
        config = f"configs/pretrain/{rule}_resnet18_demo.py"
        epochs = Config.fromfile(str(ROOT / config), import_custom_modules=False).train_cfg.max_epochs
        folder = work_dir / f"pretrain_{rule}"
        pretrain = [*python, "tools/pretrain.py", config, "--work-dir", str(folder), "--resume"]
        steps.append(Step(f"pretrain_{rule}", pretrain, lambda folder=folder: _epochs_done(folder), epochs))
        export = [*python, "tools/export_backbone.py", str(folder / f"epoch_{epochs}.pth"), str(_backbone(work_dir, rule))]
        steps.append(Step(f"export_{rule}", export, after=[f"pretrain_{rule}"]))
    for method in ("random", *RULES):
        name = f"mask_rcnn_{method}"
        folder, config = work_dir / name, f"configs/{name}_demo.py"
        splits = Config.fromfile(str(ROOT / config), import_custom_modules=False).protocol.num_splits
        train = [*python, "tools/train_det.py", config, "--work-dir", str(folder), "--resume"]
        steps.append(Step(
            name,
            train if method == "random" else [*train, "--pretrained", str(_backbone(work_dir, method))],
            lambda folder=folder: len(list(folder.glob("split_*/run.json"))),
            splits,
            [] if method == "random" else [f"export_{method}"],
        ))
    return steps


def run_steps(steps: list[Step], log_dir: Path) -> None:
    """Runs steps side by side, as many as the cores feed, with one progress bar.

    Raises:
        RunFailedError: a step failed; the others that run are stopped.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(4, cores)
    environment = {**os.environ, "OMP_NUM_THREADS": str(cores // workers), "MKL_NUM_THREADS": str(cores // workers)}
    waiting, running, done = list(steps), {}, set()
    bar = tqdm(total=sum(step.total for step in steps), file=sys.stderr, mininterval=0.1 if sys.stderr.isatty() else 30,
               bar_format="{percentage:3.0f}%|{bar}| {n}/{total} epochs and splits [{elapsed}<{remaining}]{postfix}")
    try:
        while waiting or running:
            for step in [step for step in waiting if done.issuperset(step.after)][: workers - len(running)]:
                waiting.remove(step)
                with open(log_dir / f"{step.name}.log", "w") as log:
                    running[step.name] = subprocess.Popen(step.command, cwd=ROOT, env=environment, stdout=log, stderr=log)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                code = running.pop(name).returncode
                if code:
                    log = log_dir / f"{name}.log"
                    end = log.read_text(errors="replace").strip().rpartition("\n")[2]
                    raise RunFailedError(f"{name} failed with exit code {code}; {log} ends: {end}")
                done.add(name)
            bar.set_postfix_str(", ".join(sorted(running)), refresh=sys.stderr.isatty())
            bar.update(sum(min(step.total, step.progress()) for step in steps) - bar.n)
            time.sleep(POLL_SECONDS)
    finally:
        bar.close()
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _backbone(work_dir: Path, rule: str) -> Path:
    return work_dir / "backbones" / f"{rule}_resnet18_demo.pth"


def _epochs_done(folder: Path) -> int:
    files = checkpoint_files(folder)
    return int(files[0].stem.split("_")[1]) if files else 0  # of epoch_1_iter_11.pth, too


def _pretraining_losses(work_dir: Path) -> list[tuple[str, float, float]]:
    """Per rule the mean logged loss, summed over its units, of the first and of the last epoch."""
    losses = []
    for rule in sorted(RULES):
        means = list(read_training_log(work_dir / f"pretrain_{rule}").epoch_means("loss").values())
        losses.append((rule, means[0], means[-1]))
    return losses
