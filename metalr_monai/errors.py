"""Every error a user can meet, as children of one class: what came, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class MetaLRError(Exception):
    """Base of all errors that metalr_monai raises on purpose."""


class BlockError(MetaLRError, ValueError):
    """The blocks do not cover every parameter exactly once, or a pattern matches nothing."""


class OptionError(MetaLRError, ValueError):
    """An unknown option, or a value outside its range."""


class OptimizerError(MetaLRError, ValueError):
    """The optimizer cannot carry learned rates: no block names, or a step that is not linear in its rate."""


class ConflictError(MetaLRError, RuntimeError):
    """Something else writes the learning rates that MetaLR learns."""


class MetaDataError(MetaLRError, ValueError):
    """The meta set is empty, larger than the data, or shorter than one batch."""


class StateError(MetaLRError, ValueError):
    """A saved state does not fit the present blocks or options."""


class EngineError(MetaLRError, TypeError):
    """The Ignite engine is not one that the handler can drive."""


class DataError(MetaLRError, ValueError):
    """A data set's files or folders are not as expected."""


class WeightsError(MetaLRError, ValueError):
    """A checkpoint cannot be read, holds no weights, or does not fit the network."""


class StudyError(MetaLRError, ValueError):
    """A study file, or the folder of a study, is not as expected."""


def own_error(error: BaseException) -> MetaLRError | None:
    """The error of this package out of which another library, such as MONAI in a config, has made `error`; or None."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MetaLRError):
        cause = cause.__cause__
    return cause


def first_cause(error: BaseException) -> BaseException:
    """The error that began a chain of them, but for those that `raise … from None` hides."""
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = cause
    return error


def near_misses(name: str, candidates: Iterable[str]) -> str:
    """A sentence for an error message with the names that `name` may have meant, or nothing."""
    near = difflib.get_close_matches(name, list(candidates), n=5)
    return f" Did you mean {', '.join(near)}?" if near else ""


def first_few(names: Sequence[str], shown: int = 5) -> str:
    """`a, b, c and 7 more`."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
