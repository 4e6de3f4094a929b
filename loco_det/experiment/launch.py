"""Carries out what ``tools/train_det.py`` is to do: in this process, in those of a launcher, or packed onto GPUs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from loco_det.experiment.config import split_dir
from loco_det.experiment.experiment import Experiment, run_experiments
from loco_det.experiment.scheduling import Job, gpu_groups, run_jobs, visible_gpus
from pretrain.distributed import comm
from pretrain.errors import RunFailedError, RunInterrupted


def train_detectors(configs: Sequence[Config], args: argparse.Namespace, tool: str) -> list[Path]:
    """Trains every config over its splits.

    Args:
        configs: what :func:`loco_det.experiment.inputs.detection_configs` made of the arguments.
        args: of ``tools/train_det.py``.
        tool: the tool's own file, which runs on GPUs of their own are started with.

    Returns:
        The records of the experiments.

    Raises:
        ValueError, RunFailedError, RunInterrupted: see :func:`loco_det.experiment.experiment.run_experiments`.
    """
    if args.gpus_per_run is not None:
        return _train_packed(configs, args, tool)
    comm.start_processes(args.launcher or comm.find_launcher())
    try:
        results = run_experiments(configs, args.splits, args.resume)
    except RunInterrupted:  # all processes at once; one that ends with its group open may abort
        comm.stop_processes()
        raise
    comm.stop_processes()
    return results


def _train_packed(configs: Sequence[Config], args: argparse.Namespace, tool: str) -> list[Path]:
    """Each run in processes of its own, as many runs at a time as there are GPUs for."""
    if args.launcher not in (None, "none") or comm.find_launcher() != "none":
        raise ValueError("--gpus-per-run starts processes itself; leave out --launcher and torchrun")
    groups = gpu_groups(visible_gpus(), args.gpus_per_run)
    experiments = [Experiment(config, args.splits) for config in configs]  # all input is checked first
    for experiment in experiments:
        experiment.claim()
    jobs = [_job(experiment.config, index, args, tool) for experiment in experiments for index in experiment.todo]
    failures = run_jobs(jobs, groups)
    if failures:
        raise RunFailedError(f"{len(failures)} of {len(jobs)} runs failed: {'; '.join(failures)}")
    return [experiment.record_file for experiment in experiments]


def _job(config: Config, index: int, args: argparse.Namespace, tool: str) -> Job:
    """The command of one split's run."""
    python = [sys.executable]
    if args.gpus_per_run > 1:
        python += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(args.gpus_per_run)]
    options = ["--splits", str(index), "--work-dir", config.work_dir]
    options += ["--resume"] if args.resume else []
    for name in ("data_root", "pretrained"):
        if getattr(args, name):
            options += [f"--{name.replace('_', '-')}", getattr(args, name)]
    if args.cfg_options:
        options += ["--cfg-options", *args.cfg_options_text]
    folder = split_dir(config, index)
    return Job(f"{Path(config.work_dir).name} split {index}", [*python, tool, config.config_file, *options],
               folder / "console.log")
