"""The command line, `python -m metalr_monai VERB …`.

With `--json` a verb prints one JSON object and nothing else on standard output; progress and messages go to standard
error. Exit code 0 only when all went well, 2 for bad input (without a traceback), 1 for an unexpected failure.
"""

from __future__ import annotations

import functools
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import zip_longest
from typing import Any

import fire
from fire.decorators import SetParseFns

from .cli.answer import Answer
from .cli.verbs import VERBS
from .errors import MetaLRError, OptionError, near_misses

HELP = {"--help", "-h"}
_FLAG = re.compile(r"--|-[A-Za-z]")  # what fire takes for a flag: no negative number


def _verb_name(word: str) -> str:
    name = word.replace("_", "-")
    if name not in VERBS:
        raise OptionError(f"Unknown verb {word!r}; known: {', '.join(VERBS)}.{near_misses(name, VERBS)}")
    return name


def _call(name: str, words: Sequence[str]) -> Callable[[], Answer]:
    """The verb with its arguments. (Fire runs a function before it looks at the words that are left over.)"""
    calls: list[Callable[[], Answer]] = []

    @functools.wraps(VERBS[name])
    def note(*values: Any, **flags: Any) -> None:  # noqa: ANN401 - whatever fire reads
        calls.append(functools.partial(VERBS[name], *values, **flags))

    # Left alone, fire reads a folder named 2024 as a number, and a scheme named "MetaLR, one-pass" as a tuple.
    parameters = inspect.signature(VERBS[name], eval_str=True).parameters
    texts = {key: str for key, parameter in parameters.items() if parameter.annotation in (str, str | None)}
    SetParseFns(**texts)(note)
    words = _plain_flags(name, words)
    try:
        with redirect_stderr(io.StringIO()):  # fire's usage knows neither the verb's name nor --json
            fire.Fire(note, command=words, name=name)
    except fire.core.FireExit as stop:
        reason = stop.trace.elements[-1].ErrorAsStr()
        raise OptionError(f"{name}: {reason}\nUsage: {_signature(name)}") from None
    return calls[0]


def _plain_flags(name: str, words: Sequence[str]) -> list[str]:
    """Flags that are known, and each with its value: fire would take the word after a switch for its value."""
    parameters = inspect.signature(VERBS[name]).parameters
    plain = []
    for word, following in zip_longest(words, words[1:], fillvalue="--"):
        if not _FLAG.match(word):
            plain.append(word)
            continue
        flag, has_value, _ = word.lstrip("-").partition("=")
        known = parameters.get(flag.replace("-", "_"))
        if known is None:
            near = near_misses(flag, (*parameters, "json", "help"))
            raise OptionError(f"{name}: unknown flag {word}.{near}\nUsage: {_signature(name)}")
        is_switch = known.default is False
        if is_switch and has_value:
            raise OptionError(f"{name}: {word} has a value; expected --{flag} alone.")
        if not is_switch and not has_value and _FLAG.match(following):
            raise OptionError(f"{name}: {word} has no value.\nUsage: {_signature(name)}")
        plain.append(f"{word}=True" if is_switch else word)
    return plain


def _signature(name: str) -> str:
    """`check-data KIND FOLDER [--voxels] [--labels LABELS]`"""
    words = [name]
    for key, parameter in inspect.signature(VERBS[name]).parameters.items():
        value = "" if parameter.default is False else f" {key.upper()}"
        words.append(key.upper() if parameter.default is parameter.empty else f"[--{key}{value}]")
    return " ".join(words)


def _usage() -> str:
    summaries = {name: (inspect.getdoc(verb) or "").splitlines()[0] for name, verb in VERBS.items()}
    rows = [(_signature(name).partition(" [")[0], summary) for name, summary in summaries.items()]
    lines = [line for words, summary in rows for line in (f"  {words}", f"      {summary}")]
    usage = "Usage: python -m metalr_monai VERB … [--json]; the flags of a verb: VERB --help"
    return "\n".join([usage, "", *lines])


@contextmanager
def _prints_on_standard_error() -> Iterator[None]:
    """What MONAI and others print is no answer.

    MONAI's loggers keep the standard output of their import, and C++ libraries know none but the descriptor.
    """
    kept = os.dup(1)
    sys.stdout.flush()
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and print its answer.

    Args:
        argv: the words after the program's name; those of the process by default.

    Returns:
        The exit code: 0, or 2 for bad input. Unexpected failures are raised.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    if not words or words[0] in HELP:
        print(_usage())
        return 0
    try:
        name = _verb_name(words[0])
        if HELP & set(words):
            print(f"Usage: python -m metalr_monai {_signature(name)} [--json]\n\n{inspect.getdoc(VERBS[name])}")
            return 0
        with _prints_on_standard_error():
            answer = _call(name, words[1:])()
    except MetaLRError as error:
        print(error, file=sys.stderr)
        if as_json:
            print(json.dumps({"error": str(error), "type": type(error).__name__}))
        return 2
    print(json.dumps(answer.data, allow_nan=False) if as_json else answer.text)
    return 0 if answer.ok else 2


if __name__ == "__main__":
    sys.exit(main())
