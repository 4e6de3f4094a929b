"""The whole line on the embedded default: pretrain, export, transfer to Mask R-CNN over the splits, AP table, report.

Every step is the command that a user would type, run in a process that begins with the libraries imported; this module
only says in which order, keeps all cores busy and shows progress. The tools themselves see what is finished already, and
whether it is of the same config and data, so that an interrupted demo continues.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from mmengine.config import Config
from tqdm import tqdm

from pretrain.data.synthetic import ensure_configured
from pretrain.engine.checkpoints import checkpoint_files
from pretrain.engine.cli import note
from pretrain.engine.work_dir import write_json
from pretrain.errors import RunFailedError, RunInterrupted
from pretrain.results.formats import cell_text, table_text
from pretrain.results.method import shown_method
from pretrain.results.table import METRIC_TITLES, Table, results_table
from pretrain.results.training_log import read_training_log

ROOT = Path(__file__).resolve().parents[1]
# Seconds that an epoch of pretraining takes and a split, relative to each other: the time to go is reckoned with them.
EPOCH_COST = dict(loco=1.6, simclr=1.0, gim=1.0)  # the longest first, so that no core idles at the end
SPLIT_COST = 2.5
RULES = tuple(EPOCH_COST)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WORKERS = min(4, CORES)
POLL_SECONDS = 0.1
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["loco_det.experiment.experiment", "loco_det.register", "loco_det.report.render"])


@dataclass
class Step:
    """A tool's command that runs once other steps are done.

    Attributes:
        name: for its log and messages.
        command: the tool's path from the project's root, and its arguments.
        progress: how many units of work are done, read off the files written so far.
        total: all units of work.
        cost: of a unit, in relation to other steps' units.
        after: names of the steps it waits for.
        result: a line about what came out, which is shown once it is done.
    """

    name: str
    command: list[str]
    progress: Callable[[], int] = lambda: 0
    total: int = 0
    cost: float = 1.0
    after: list[str] = field(default_factory=list)
    result: Callable[[], str] | None = None

    @property
    def cost_done(self) -> float:
        """The part of ``total * cost`` that is done."""
        return min(self.total, self.progress()) * self.cost


def run_demo(work_dir: Path) -> str:
    """Runs what is not finished yet and returns the summary to print.

    Args:
        work_dir: everything but the data set is written below it; ``ap_table.json`` holds the table, ``report.html`` shows
            all of it.

    Raises:
        RunFailedError: a step failed.
        RunInterrupted: a signal asked to stop; what runs has saved where it is.
    """
    began = time.monotonic()
    work_dir = work_dir.resolve()
    steps, logs = demo_steps(work_dir), work_dir / "logs"
    draw_data()
    _start_server(logs / "imports.log")
    run_steps(steps, logs)
    detectors = [work_dir / step.name for step in steps if step.name.startswith("mask_rcnn")]
    table, warnings = results_table(detectors)
    write_json(work_dir / "ap_table.json", {"rows": ap_rows(table)})
    lines = ["Pretraining loss, mean of the first and of the last epoch:",
             *(f"  {pretraining_loss(work_dir, rule)}" for rule in sorted(RULES))]
    lines += ["", "Mask R-CNN on frozen backbones, mean ± std over splits of the synthetic set (difference to SimCLR):", "",
              table_text(table, "markdown"), *(f"note: {line}" for line in table.notes),
              *(f"warning: {line}" for line in warnings),
              f"Results in {work_dir} (ap_table.json, mask_rcnn_*/run.json), {time.monotonic() - began:.0f} s",
              _report_line(work_dir)]
    return "\n".join(lines)


def draw_data() -> None:
    """Makes the data set, which otherwise every step that begins with it would do."""
    config = Config.fromfile(str(ROOT / "configs/mask_rcnn_random_demo.py"), import_custom_modules=False)
    config.synthetic_data.root = str(ROOT / config.synthetic_data.root)
    ensure_configured(config)


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
    report = work_dir / "report.html"
    report.unlink(missing_ok=True)
    step = Step("report", ["tools/report.py", str(work_dir), "--out", str(report)], report.exists, total=1)
    try:
        run_steps([step], work_dir / "logs")
    except RunFailedError as error:
        return f"Report: not written, {error}"
    return f"Report: {report}"


def demo_steps(work_dir: Path) -> list[Step]:
    """The steps of the demo, in order of preference."""
    steps = []
    for rule in RULES:
        config = f"configs/pretrain/{rule}_resnet18_demo.py"
        epochs = Config.fromfile(str(ROOT / config), import_custom_modules=False).train_cfg.max_epochs
        folder = work_dir / f"pretrain_{rule}"
        steps.append(Step(
            name=f"pretrain_{rule}",
            command=["tools/pretrain.py", config, "--work-dir", str(folder), "--resume"],
            progress=lambda folder=folder: _epochs_done(folder),
            total=epochs,
            cost=EPOCH_COST[rule],
            result=lambda rule=rule: f"pretraining loss, {pretraining_loss(work_dir, rule)}",
        ))
        export = ["tools/export_backbone.py", str(folder / f"epoch_{epochs}.pth"), str(_backbone(work_dir, rule))]
        steps.append(Step(f"export_{rule}", export, after=[f"pretrain_{rule}"]))
    for method in ("random", *RULES):
        name = f"mask_rcnn_{method}"
        folder, config = work_dir / name, f"configs/{name}_demo.py"
        backbone = [] if method == "random" else ["--pretrained", str(_backbone(work_dir, method))]
        steps.append(Step(
            name=name,
            command=["tools/train_det.py", config, "--work-dir", str(folder), "--resume", *backbone],
            progress=lambda folder=folder: len(list(folder.glob("split_*/run.json"))),
            total=Config.fromfile(str(ROOT / config), import_custom_modules=False).protocol.num_splits,
            cost=SPLIT_COST,
            after=[] if method == "random" else [f"export_{method}"],
            result=lambda folder=folder: _ap_line(folder),
        ))
    return steps


def run_steps(steps: list[Step], log_dir: Path) -> None:
    """Runs steps side by side, as many as the cores feed, with one progress bar and a line for each result.

    Raises:
        RunFailedError: a step failed; the others that run are stopped.
        RunInterrupted: SIGINT or SIGTERM asked to stop; the steps that run have saved where they are.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    waiting, done = list(steps), set()
    running: dict[str, BaseProcess] = {}
    with _progress_bar(steps) as bar, _stopping():
        while waiting or running:
            for step in [step for step in waiting if done.issuperset(step.after)][: WORKERS - len(running)]:
                waiting.remove(step)
                running[step.name] = _start(step.command, log_dir / f"{step.name}.log")
            for step in [step for step in steps if step.name in running and running[step.name].exitcode is not None]:
                code = running.pop(step.name).exitcode
                if code:
                    raise RunFailedError(f"{step.name} failed with exit code {code}; {_last_line(log_dir, step.name)}")
                done.add(step.name)
                if step.result is not None:
                    bar.write(step.result(), file=sys.stderr)
            bar.set_postfix_str(", ".join(sorted(running)), refresh=sys.stderr.isatty())
            bar.update(sum(step.cost_done for step in steps) - bar.n)
            time.sleep(POLL_SECONDS)


def _progress_bar(steps: Sequence[Step]) -> tqdm:
    """What earlier starts have done does not count for the time to go."""
    return tqdm(total=sum(step.total * step.cost for step in steps), initial=sum(step.cost_done for step in steps),
                smoothing=0, file=sys.stderr, mininterval=0.1 if sys.stderr.isatty() else 30,
                bar_format="{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}")


@contextmanager
def _stopping() -> Iterator[None]:
    """Stops what runs where an error or a signal ends the steps, and waits for it."""

    def interrupt(signum: int, _: Any) -> None:
        raise RunInterrupted("interrupted; the same command continues", signum)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # a second one must not leave processes behind
        running = multiprocessing.active_children()
        if running:
            note("stopping; what runs saves where it is")
        for process in running:
            process.terminate()
        for process in running:
            process.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def _start_server(log: Path) -> None:
    """Starts the process that imports the libraries, and waits for it; what they print there goes to a log."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(CORES // WORKERS)  # read where torch is imported
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    try:
        _redirect(log, *kept)
        forkserver.ensure_running()
    finally:
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)
    first = _PROCESSES.Process(target=int)  # does nothing, but only once the libraries are there
    first.start()
    first.join()


def _redirect(log: Path, *descriptors: int) -> None:
    """Makes descriptors write to a new file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in descriptors:
        os.dup2(file, descriptor)
    os.close(file)


def _start(command: Sequence[str], log: Path) -> BaseProcess:
    """Starts a tool whose output goes to a log."""
    process = _PROCESSES.Process(target=_run_tool, args=(list(command), log))
    process.start()
    return process


def _run_tool(command: list[str], log: Path) -> None:
    """In a process of its own: what ``python <command>`` does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _redirect(log, 1, 2)
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1) for descriptor in (1, 2))
    os.chdir(ROOT)
    sys.argv[:] = command
    runpy.run_path(command[0], run_name="__main__")


def _end_with_parent() -> None:
    """Ends this process when the demo is killed, so that the next one finds its folders free."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _last_line(log_dir: Path, name: str) -> str:
    log = log_dir / f"{name}.log"
    return f"{log} ends: {log.read_text(errors='replace').strip().rpartition(chr(10))[2]}"


def _backbone(work_dir: Path, rule: str) -> Path:
    return work_dir / "backbones" / f"{rule}_resnet18_demo.pth"


def _epochs_done(folder: Path) -> int:
    files = checkpoint_files(folder)
    return int(files[0].stem.split("_")[1]) if files else 0  # of epoch_1_iter_11.pth, too


def pretraining_loss(work_dir: Path, rule: str) -> str:
    """A rule's mean logged loss, summed over its units, of the first and of the last epoch."""
    means = list(read_training_log(work_dir / f"pretrain_{rule}").epoch_means("loss").values())
    return f"{rule}: {means[0]:.2f} -> {means[-1]:.2f}"


def _ap_line(folder: Path) -> str:
    """The row of one detector's table."""
    (row,) = results_table([folder])[0].rows
    numbers = (f"{METRIC_TITLES[column.metric]} {cell_text(cell, column.metric)}" for column, cell in row.cells.items())
    return f"{row.labels[0]}: {', '.join(numbers)}"
