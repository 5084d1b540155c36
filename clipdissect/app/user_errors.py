"""Errors of Hydra and OmegaConf in the user's words."""

from __future__ import annotations

import errno
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, UnionNode
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from clipdissect.app.help import conf_folder
from clipdissect.app.quoting import in_yaml, on_command_line
from clipdissect.errors import DissectError, unknown
from clipdissect.utils.extras import install

# Modules of the extra `sweep` that run jobs elsewhere, and what their errors come from.
LAUNCHERS = ("joblib", "submitit")
# Optuna, asked for the best trial of none: in memory, and in a database.
NO_TRIAL = ("No trials are completed yet.", "Record does not exist.")

# Beginnings of Hydra's messages.
AMBIGUOUS = "Ambiguous value for argument '"
MERGING = "Error merging override "
# Its flags for folders with configs of the user's own.
CONFIG_FOLDERS = ("--config-dir", "-cd", "--config-path", "-cp")


def stop(error: Exception) -> NoReturn:
    """End a command on a mistake of the user's or a file that can't be read or written."""
    print(f"error: {explain(error) or error}", file=sys.stderr)
    sys.exit(2)


def explain(error: BaseException) -> str | None:
    """What to tell the user, or None where the error is ours and a traceback should show."""
    for cause in _chain(error):
        if isinstance(cause, DissectError):
            return str(cause)
        if isinstance(cause, MissingConfigException) and cause.options:
            return _of_option(str(cause.missing_cfg_file), cause.options)
        if isinstance(cause, OverrideParseException):
            return _of_unreadable(cause.override)
        if isinstance(cause, ConfigCompositionException):
            message = _of_composition(cause)
            if message:
                return message
        if isinstance(cause, OmegaConfBaseException) and cause.full_key is not None:
            return _of_key(cause)
        if isinstance(cause, OSError) and cause.strerror and (cause.filename or cause is error):
            return of_system(cause)
        if type(cause).__module__.split(".")[0] in LAUNCHERS:
            return f"a job's process ended before the job did: {str(cause).strip()}"
        if str(cause) in NO_TRIAL:
            return "no trial of the search has a value"
    if isinstance(error, ValueError) and str(error).startswith("Only one of --"):
        return str(error)  # Hydra, of its flags
    if isinstance(error, HydraException):
        return re.sub(r"\n+", "\n", str(error)).strip()
    return None


def _of_unreadable(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return f"'{override}' is no option: options are written key=value"
    message = f"the value of {key} can't be read: {value}. "
    quoted = on_command_line(override, sweep=_is_multirun())
    if quoted is None:
        return f"{message}Put text with special characters in double quotes, inside single ones"
    return f"{message}If it is text, write {quoted}"


def _of_composition(error: ConfigCompositionException) -> str | None:
    """Of what an override or a file sets; None where it isn't about a key's value."""
    text, cause = str(error), error.__cause__ or error.__context__
    if text.startswith(AMBIGUOUS):
        override = text[len(AMBIGUOUS) :].split("'\n")[0]
        key, _, values = override.partition("=")
        return (
            f"{override} has several values. If it is one text, write "
            f"{on_command_line(override, whole=True)}; for a list, "
            f"{shlex.quote(f'{key}=[{values}]')}; to run each value, add -m"
        )
    if not isinstance(cause, OmegaConfBaseException) or cause.full_key is None:
        return None
    if text.startswith(MERGING):
        override = text[len(MERGING) :]
        return _of_text(override, cause) if _wants_text(cause) else _of_key(cause)
    file = re.match(r"In '(.+?)': ", text)
    if file is None:
        return None
    return _in_file(file[1], cause)


def _wants_text(error: OmegaConfBaseException) -> bool:
    """Whether something else was given where the schema has text (`schema.Text`)."""
    return isinstance(error.child_node, UnionNode) or "Union[str, bytes]" in str(error.msg)


def _of_text(override: str, error: OmegaConfBaseException) -> str:
    key = override.lstrip("+").partition("=")[0]
    # A job of a sweep has its value as Hydra reads it, the command line as it was written.
    written = [a for a in sys.argv[1:] if a.lstrip("+").startswith(f"{key}=")] or [override]
    value = written[-1].partition("=")[2]
    whole = str(error.full_key) == key
    quoted = on_command_line(written[-1], whole=whole, sweep=whole and _is_multirun())
    return f"{key} must be text, and {value} is read as {_kind(error.value)}: write {quoted}"


def _in_file(name: str, error: OmegaConfBaseException) -> str:
    """Of a value that a config file sets."""
    if not _wants_text(error):
        return f"{name}.yaml: {_of_key(error)}"
    last = str(error.full_key).rpartition(".")[2].strip("]").rpartition("[")[2]
    for folder in _config_folders():
        file = folder / f"{name}.yaml"
        place = in_yaml(file, last, error.value) if file.is_file() else None
        if place:
            line, written, instead = place
            return (
                f"{file}, line {line}: {written} is read as {_kind(error.value)}, and must be "
                f"text here: write {instead}"
            )
    return f"{name}.yaml: {error.full_key} must be text; it is {error.value!r}. Put it in quotes"


def _config_folders() -> list[Path]:
    arguments = iter(sys.argv[1:])
    given = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag in CONFIG_FOLDERS:
            given.append(Path(value if equals else next(arguments, "")))
    return [*given, conf_folder()]


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", NoneType: "nothing"}
    return kinds.get(type(value), "a list" if isinstance(value, list) else "no text")


def _is_multirun() -> bool:
    return bool({"-m", "--multirun"} & set(sys.argv[1:]))


def of_system(error: OSError) -> str:
    """What to tell the user of a file or disk that can't be read or written."""
    place = f"{error.filename}: " if error.filename else ""
    remedy = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = ("; free space, or set paths.results (or paths.store) to another disk: features "
                  "that were finished are kept and will be used")  # fmt: skip
    return f"{place}{error.strerror}{remedy}"


def _of_option(path: str, valid: Sequence[str]) -> str:
    group, _, option = path.rpartition("/")
    message = str(unknown(f"option of {group}", option, valid))
    if group.startswith(("hydra/launcher", "hydra/sweeper")):
        message += f"\nlaunchers and sweepers come with an extra: {install('sweep')}"
    return message


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current = current.__cause__
    return iter(seen)


def _of_key(error: OmegaConfBaseException) -> str:
    key: Any = error.full_key
    if isinstance(error, MissingMandatoryValue):
        return f"{key} must be set: add {key}=<value>"
    if "is not a ListConfig" in str(error.msg):
        return f"{key} must be a list, such as {key}=[a,b]"
    if isinstance(error, (ConfigAttributeError, ConfigKeyError)):
        return _unknown_key(error)
    return f"{key}: {str(error.msg).splitlines()[0]}"


def _unknown_key(error: OmegaConfBaseException) -> str:
    parent = error.parent_node
    key = str(error.full_key or error.key)
    if not isinstance(parent, DictConfig):
        return f"unknown config key '{key}'"
    above, _, last = key.rpartition(".")
    valid = [f"{above}.{k!s}" if above else str(k) for k in parent]
    if not valid:  # a dict whose names are the user's
        return f"new names need a plus: +{key}=<value>"
    return str(unknown("config key", f"{above}.{last}" if above else last, valid))
