"""Objects made of a config's options, with messages that name options as users write them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def unknown_name(what: str, name: Any, known: Iterable[str], note: str = "") -> ValueError:
    """The error for a name that is not among those known: names them, or of very many the nearest, and what may be meant."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    listed = f"; known are {', '.join(known)}" if len(known) <= 20 else ""
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ValueError(f"unknown {what} {name!r}{listed}{note}{meant}")


def build_with_options(what: str, make: Callable[..., T], options: Mapping[str, Any], *args: Any) -> T:
    """``make(*args, **options)``.

    Args:
        what: what the options are of, for messages.
        make: a class or function whose parameters are known by name; what a ``functools.partial`` has set is not an option.
        options: of a config.
        args: its first arguments, which are not options.

    Raises:
        ValueError: there is no such option (the message lists those there are), one is missing, or one is of a wrong type.
    """
    known = _options_of(make, len(args))
    if not isinstance(options, Mapping):
        raise ValueError(f"{what} is {options!r}, but a dict of options is needed; there are {', '.join(known)}")
    check_known(what, options, known)
    missing = [name for name, parameter in known.items() if parameter.default is parameter.empty and name not in options]
    if missing:
        raise ValueError(f"options of {what} do not fit: {', '.join(map(repr, missing))} must be given")
    try:
        return make(*args, **options)
    except TypeError as error:
        raise ValueError(f"options of {what} do not fit: {error}") from error


def check_known(what: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Refuses the first of ``options`` that is not known, with a ``ValueError`` that names the nearest."""
    known = list(known)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"options of {what} do not fit: {unknown_name('option', unknown[0], known)}")


def _options_of(make: Callable, taken: int) -> dict[str, inspect.Parameter]:
    """The named parameters of ``make``, but for the first ``taken`` ones and those that a partial has set."""
    parameters = list(inspect.signature(make).parameters.values())[taken:]
    any_others = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # as modules without __init__ have
    return {parameter.name: parameter for parameter in parameters
            if parameter.kind not in any_others and parameter.name not in getattr(make, "keywords", {})}
