"""What the command line tools share: config arguments, one-line errors, and stdout kept for results."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config, DictAction

from pretrain.errors import RunFailedError

USAGE_ERROR = 2
INTERRUPTED = 1  # nothing is saved; a run that is says 130 (RunInterrupted)
CLOSED_PIPE = 141  # what shells report of a process that SIGPIPE ended: 128 + 13


def note(message: str) -> None:
    """Prints a message to stderr."""
    print(message, file=sys.stderr, flush=True)


def command(main: Callable[[], str]) -> Callable[[], None]:
    """Makes a tool's entry point of a function that returns what belongs on stdout.

    Meanwhile whatever libraries print or log goes to stderr. What a user can fix, a ``ValueError`` or a file that cannot be
    read or written, becomes one line on stderr and exit code 2; a run that failed or was interrupted
    (:mod:`pretrain.errors`) becomes one line and its own exit code; its ``output`` goes to stdout.
    Set ``LOCO_DET_TRACEBACK=1`` to see where it came from.
    """

    @functools.wraps(main)
    def entry_point() -> None:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                output = main()
        except (ValueError, OSError, RunFailedError) as error:
            if os.environ.get("LOCO_DET_TRACEBACK") or not _is_users(error):
                raise
            note(f"error: {' '.join(str(error).split())}")
            if getattr(error, "output", None) is not None:
                _print_result(error.output)
            sys.exit(getattr(error, "exit_code", USAGE_ERROR))
        except KeyboardInterrupt:
            if os.environ.get("LOCO_DET_TRACEBACK"):
                raise
            note("error: interrupted")
            sys.exit(INTERRUPTED)
        if os.environ.get("RANK", "0") == "0":  # only the main process prints
            _print_result(output)

    return entry_point


def _is_users(error: Exception) -> bool:
    """Whether a user can fix it: an ``OSError`` only where it says which file it is about."""
    return not isinstance(error, OSError) or isinstance(error, FileNotFoundError) or error.filename is not None


def _print_result(output: str) -> None:
    """Writes to stdout now, and ends the process quietly where nobody reads any more, as before ``| head``."""
    try:
        print(output, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes stdout once more
        sys.exit(CLOSED_PIPE)


class Overrides(DictAction):
    """mmengine's ``k=v`` pairs on the command line, with a message for what is not one; their text is kept, too."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        """See :class:`argparse.Action`."""
        wrong = [value for value in values if "=" not in value]
        if wrong:
            parser.error(f"argument {option_string}: {wrong[0]!r} is not of the form key=value")
        try:
            super().__call__(parser, namespace, values, option_string)
            text = f"{self.dest}_text"  # as given, for commands that are passed on
            setattr(namespace, text, [*getattr(namespace, text, []), *values])
        except AssertionError as error:  # brackets without their counterparts
            parser.error(f"argument {option_string}: {error}")
        except RecursionError:  # mmengine's answer to braces
            parser.error(f"argument {option_string}: {' '.join(values)!r} cannot be read; a dict is set key by key, such as "
                         "model.rule.type=decoupled model.rule.k=4")


class _Import(argparse.Action):
    """Imports a module of the user's, which registers what configs, checkpoints and options then name."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: str, option_string: str | None = None
    ) -> None:
        """See :class:`argparse.Action`."""
        try:
            importlib.import_module(values)
        except ImportError as error:
            parser.error(f"argument {option_string}: {error}; put the module's folder on PYTHONPATH")


def tool_parser(docstring: str) -> argparse.ArgumentParser:
    """A parser whose help is the tool's docstring as it stands, with ``--import`` for modules of the user's."""
    parser = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--import", action=_Import, default=argparse.SUPPRESS, metavar="MODULE",
                        help="a Python module that registers rules, objectives, encoders or data sets of your own")
    return parser


def add_launcher_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--launcher``."""
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm"),
                        help="default: pytorch under torchrun, otherwise none")


def parse_encoder(text: str) -> str | dict:
    """What ``build_encoder`` takes for a tool's ``--encoder``: a registered name as it is, ``timm/NAME`` as timm's model."""
    library, _, name = text.partition("/")
    return dict(type="TimmEncoder", name=name) if library == "timm" and name else text


def add_config_arguments(parser: argparse.ArgumentParser, data_root_help: str) -> None:
    """Adds ``--data-root``, ``--work-dir``, ``--resume`` and ``--cfg-options``."""
    parser.add_argument("--data-root", metavar="DIR", help=data_root_help)
    parser.add_argument("--work-dir", metavar="DIR", help="where checkpoints and results go (default: below work_dirs/)")
    parser.add_argument("--resume", action="store_true", help="continue what the work directory holds unfinished")
    parser.add_argument("--cfg-options", nargs="+", action=Overrides, metavar="k=v", help="overrides of config values")


def load_config(path: str, args: argparse.Namespace, default_work_dir: str, needed_keys: Sequence[str]) -> Config:
    """Resolves a config file with the overrides of :func:`add_config_arguments`.

    Args:
        path: the config file.
        args: parsed arguments.
        default_work_dir: parent of the work directory where ``--work-dir`` is not given.
        needed_keys: dotted keys without which it is a config of another kind.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not resolve, or is of another kind.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"config file {path} does not exist; run from the project's root or pass another path")
    try:
        config = Config.fromfile(path, import_custom_modules=False)  # a wrong path must not wait for mmdet
        if args.cfg_options:
            config.merge_from_dict(args.cfg_options)
    except (SyntaxError, KeyError, TypeError, AttributeError, NameError, OSError) as error:
        raise ValueError(f"config {path} does not resolve: {type(error).__name__}: {error}") from error
    lacking = [key for key in needed_keys if not _has(config.to_dict(), key)]
    if lacking:
        raise ValueError(f"config {path} is not one for this tool: it lacks {', '.join(lacking)}; pretraining configs are "
                         "configs/pretrain/*.py, detection configs configs/mask_rcnn_*.py")
    config.config_file = path
    config.work_dir = args.work_dir or f"{default_work_dir}/{Path(path).stem}"
    return config


def check_exist(paths: Sequence[str], what: str, fix: str = "") -> None:
    """Refuses paths that do not exist within a moment, before a tool imports what takes seconds.

    Raises:
        FileNotFoundError: the first one; ``what`` stands before it, ``fix`` behind the sentence.
    """
    for path in paths:
        if not Path(path).exists():
            raise FileNotFoundError(f"{what} {path} does not exist{fix}".strip())


def check_data_root(root: str) -> None:
    """As :func:`check_exist`, of a folder of images that ``--data-root`` may name."""
    check_exist([root], "data folder", "; pass another with --data-root")


def _has(config: object, key: str) -> bool:
    """Whether there is a value under a dotted key."""
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return False
        config = config[part]
    return True
