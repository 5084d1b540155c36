"""Errors of Hydra and OmegaConf in the user's words."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from clipdissect.errors import DissectError, unknown

# Modules of the extra `sweep` that run jobs elsewhere, and what their errors come from.
LAUNCHERS = ("joblib", "submitit")
# Optuna, asked for the best trial of none: in memory, and in a database.
NO_TRIAL = ("No trials are completed yet.", "Record does not exist.")


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
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
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
        message += "\nlaunchers and sweepers come with the extra: pip install 'clipdissect[sweep]'"
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
        return f"new names need a plus: +{key}=<value>, or set {above}={{{last}: <value>}}"
    return str(unknown("config key", f"{above}.{last}" if above else last, valid))
