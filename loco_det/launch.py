"""Carries out what ``tools/train_det.py`` is asked for: in this process, in those of a launcher, or packed onto GPUs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from loco_det.detection_config import split_dir
from loco_det.experiment import Experiment, run_experiments
from loco_det.experiment_inputs import use_data_root, use_pretrained
from loco_det.scheduling import Job, gpu_groups, run_jobs, visible_gpus
from pretrain import distributed
from pretrain.cli import load_config
from pretrain.errors import RunFailedError, RunInterrupted

NEEDED_KEYS = ("model", "data", "protocol", "pretrained", "train_dataloader", "train_cfg")
DEFAULT_WORK_DIR = "work_dirs"


def train_detectors(args: argparse.Namespace, tool: str) -> list[Path]:
    """Trains every config over its splits.

    Args:
        args: of ``tools/train_det.py``.
        tool: the tool's own file, which runs on GPUs of their own are started with.

    Returns:
        The files of results.

    Raises:
        ValueError, RunFailedError, RunInterrupted: see :func:`loco_det.experiment.run_experiments`.
    """
    configs = detection_configs(args)
    if args.gpus_per_run is not None:
        return _train_packed(configs, args, tool)
    distributed.start_processes(args.launcher or distributed.find_launcher())
    try:
        results = run_experiments(configs, args.splits, args.resume)
    except RunInterrupted:  # all processes at once; one that ends with its group open may abort
        distributed.stop_processes()
        raise
    distributed.stop_processes()
    return results


def detection_configs(args: argparse.Namespace) -> list[Config]:
    """The configs with the command line's overrides. Of several each has a directory of its own below ``--work-dir``.

    Raises:
        ValueError: one does not resolve, is of another kind or given twice, or an option does not fit it.
    """
    paths, parent = args.configs, DEFAULT_WORK_DIR
    if len(paths) > 1:
        if args.pretrained:
            raise ValueError(f"--pretrained {args.pretrained} is of one config, but {len(paths)} are given")
        parent, args.work_dir = args.work_dir or parent, None
    configs = [load_config(path, args, parent, NEEDED_KEYS) for path in paths]
    work_dirs = [config.work_dir for config in configs]
    for path, work_dir in zip(paths, work_dirs, strict=True):
        if work_dirs.count(work_dir) > 1:
            raise ValueError(f"{path} shares the work directory {work_dir} with another of the configs; run it by itself")
    for config in configs:
        if args.data_root:
            use_data_root(config, args.data_root)
        if args.pretrained:
            use_pretrained(config, args.pretrained)
    return configs


def _train_packed(configs: Sequence[Config], args: argparse.Namespace, tool: str) -> list[Path]:
    """Each run in processes of its own, as many runs at a time as there are GPUs for."""
    if args.launcher not in (None, "none") or distributed.find_launcher() != "none":
        raise ValueError("--gpus-per-run starts processes itself; leave out --launcher and torchrun")
    groups = gpu_groups(visible_gpus(), args.gpus_per_run)
    experiments = [Experiment(config, args.splits) for config in configs]  # all input is checked first
    for experiment in experiments:
        experiment.claim()
    jobs = [_job(experiment.config, index, args, tool) for experiment in experiments for index in experiment.todo]
    failures = run_jobs(jobs, groups)
    for experiment in experiments:
        experiment.gather()  # two that end at once may each have gathered without the other
    if failures:
        raise RunFailedError(f"{len(failures)} of {len(jobs)} runs failed: {'; '.join(failures)}")
    return [experiment.results_file for experiment in experiments]


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
