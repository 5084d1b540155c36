"""Explain errors of Hydra, OmegaConf and the system."""

from __future__ import annotations

import errno
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import yaml
from hydra import errors as hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, UnionNode
from omegaconf import errors as omegaconf
from omegaconf.errors import OmegaConfBaseException as ConfigError

from clipdissect.app.help import conf_folder
from clipdissect.errors import DissectError, unknown
from clipdissect.utils.extras import install

# Modules of the extra `sweep` that run jobs in other processes and raise errors of their own.
LAUNCHERS = ("joblib", "submitit")
# Optuna's messages if there is no best trial: in memory, and in a database.
NO_TRIAL = ("No trials are completed yet.", "Record does not exist.")
# Prefixes of Hydra's messages.
AMBIGUOUS = "Ambiguous value for argument '"
MERGING = "Error merging override "
CONFIG_FOLDER_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp")


def explain(error: BaseException) -> str | None:
    """Return a message for the user; None for a fault of the program, which needs a traceback."""
    for cause in _chain(error):
        message = _explain_cause(cause)
        if message:
            return message
        if isinstance(cause, OSError) and cause.strerror and (cause.filename or cause is error):
            return _system_error(cause)
    if isinstance(error, ValueError) and str(error).startswith("Only one of --"):
        return str(error)  # Hydra, of its flags
    if isinstance(error, hydra.HydraException):
        return re.sub(r"\n+", "\n", str(error)).strip()
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__


def _explain_cause(cause: BaseException) -> str | None:
    if isinstance(cause, DissectError):
        return str(cause)
    if isinstance(cause, hydra.MissingConfigException) and cause.options:
        return _unknown_option(str(cause.missing_cfg_file), cause.options)
    if isinstance(cause, hydra.OverrideParseException):
        return _unreadable_value(cause.override)
    if isinstance(cause, hydra.ConfigCompositionException):
        return _composition_error(cause)
    if isinstance(cause, ConfigError) and cause.full_key is not None:
        return _key_error(cause)
    if type(cause).__module__.split(".")[0] in LAUNCHERS:
        return f"a job's process ended before the job did: {str(cause).strip()}"
    return "no trial of the search has a value" if str(cause) in NO_TRIAL else None


def _unreadable_value(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return f"'{override}' is no option: options are written key=value"
    message = f"the value of {key} can't be read: {value}. "
    quoted = on_command_line(override, sweep=_is_multirun())
    if quoted is None:
        return f"{message}Put text with special characters in double quotes, inside single ones"
    return f"{message}If it is text, write {quoted}"


def _composition_error(error: hydra.ConfigCompositionException) -> str | None:
    """Return None if the error isn't about a key's value."""
    text, cause = str(error), error.__cause__ or error.__context__
    if text.startswith(AMBIGUOUS):
        override = text[len(AMBIGUOUS) :].split("'\n")[0]
        key, _, values = override.partition("=")
        return (
            f"{override} has several values. If it is one text, write "
            f"{on_command_line(override, whole=True)}; for a list, "
            f"{shlex.quote(f'{key}=[{values}]')}; to run each value, add -m"
        )
    if not isinstance(cause, ConfigError) or cause.full_key is None:
        return None
    if text.startswith(MERGING):
        override = text[len(MERGING) :]
        return _not_text(override, cause) if _wants_text(cause) else _key_error(cause)
    file = re.match(r"In '(.+?)': ", text)
    return None if file is None else _file_error(file[1], cause)


def _wants_text(error: ConfigError) -> bool:
    """Return whether the schema needs text (`schema.Text`) but got another type."""
    return isinstance(error.child_node, UnionNode) or "Union[str, bytes]" in str(error.msg)


def _not_text(override: str, error: ConfigError) -> str:
    key = override.lstrip("+").partition("=")[0]
    # The job of a sweep has its value as Hydra reads it; the command line, as written.
    written = [a for a in sys.argv[1:] if a.lstrip("+").startswith(f"{key}=")] or [override]
    value = written[-1].partition("=")[2]
    whole = str(error.full_key) == key
    quoted = on_command_line(written[-1], whole=whole, sweep=whole and _is_multirun())
    read = _type_in_words(error.value)
    return f"{key} must be text, and {value} is read as {read}: write {quoted}"


def _file_error(name: str, error: ConfigError) -> str:
    if not _wants_text(error):
        return f"{name}.yaml: {_key_error(error)}"
    last = str(error.full_key).rpartition(".")[2].strip("]").rpartition("[")[2]
    for folder in _config_folders():
        file = folder / f"{name}.yaml"
        place = in_yaml(file, last, error.value) if file.is_file() else None
        if place:
            line, written, quoted = place
            read = _type_in_words(error.value)
            return (
                f"{file}, line {line}: {written} is read as {read}, and must be text here: "
                f"write {quoted}"
            )
    return f"{name}.yaml: {error.full_key} must be text; it is {error.value!r}. Put it in quotes"


def _config_folders() -> list[Path]:
    arguments = iter(sys.argv[1:])
    folders = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag in CONFIG_FOLDER_FLAGS:
            folders.append(Path(value if equals else next(arguments, "")))
    return [*folders, conf_folder()]


def _type_in_words(value: Any) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", NoneType: "nothing"}
    return kinds.get(type(value), "a list" if isinstance(value, list) else "no text")


def _is_multirun() -> bool:
    return bool({"-m", "--multirun"} & set(sys.argv[1:]))


def _system_error(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{place}{error.strerror}"
    return (
        f"{place}{error.strerror}; free space, or set paths.results (or paths.store) to another "
        "disk: finished features are stored and will be reused"
    )


def _unknown_option(path: str, valid: Sequence[str]) -> str:
    group, _, option = path.rpartition("/")
    message = str(unknown(f"option of {group}", option, valid))
    if group.startswith(("hydra/launcher", "hydra/sweeper")):
        message += f"\nlaunchers and sweepers come with an extra: {install('sweep')}"
    return message


def _key_error(error: ConfigError) -> str:
    key: Any = error.full_key
    if isinstance(error, omegaconf.MissingMandatoryValue):
        return f"{key} must be set: add {key}=<value>"
    if "is not a ListConfig" in str(error.msg):
        return f"{key} must be a list, such as {key}=[a,b]"
    if not isinstance(error, (omegaconf.ConfigAttributeError, omegaconf.ConfigKeyError)):
        return f"{key}: {str(error.msg).splitlines()[0]}"
    if not isinstance(error.parent_node, DictConfig):
        return f"unknown config key '{key}'"
    above = str(key).rpartition(".")[0]
    valid = [f"{above}.{name!s}" if above else str(name) for name in error.parent_node]
    if not valid:  # a dict with free keys
        return f"new names need a plus: +{key}=<value>"
    chosen = f"{above}.name"
    if valid == [chosen]:  # an option without parameters, such as sae=none
        return f"{key} belongs to another option of {above}: choose it too, such as {above}=auto"
    return str(unknown("config key", str(key), valid))


BRACKETS = {"[": "]", "{": "}", "(": ")"}


def on_command_line(override: str, whole: bool = False, sweep: bool = False) -> str | None:
    """Return an override, quoted for the shell, whose values are read as text, or None.

    `whole` quotes the value despite brackets, otherwise elements are quoted separately;
    `sweep` splits at commas.
    """
    key, equals, value = override.partition("=")
    parts = _split(value) if sweep else [value]
    quoted = ",".join(_quote(part) if whole else _quote_elements(part) for part in parts)
    result = f"{key}{equals}{quoted}"
    return shlex.quote(result) if equals and _parsed(result) else None


def in_yaml(file: Path, key: str | None, value: Any) -> tuple[int, str, str] | None:
    """Return line (from 1), text and quoted form of a value that isn't read as text, or None.

    `key` is the last part of the dotted key, or the index in a list, which is quoted
    whole.
    """
    node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    for name, scalar, siblings in _scalars(node):
        if name == key and _read(scalar) == value and not isinstance(_read(scalar), str):
            if siblings is None:
                quoted = f"{name}: {_yaml_quote(scalar)}"
            else:
                quoted = f"[{', '.join(map(_yaml_quote, siblings))}]"
            return scalar.start_mark.line + 1, scalar.value, quoted
    return None


Scalars = Iterator[tuple[str, yaml.ScalarNode, "list[yaml.ScalarNode] | None"]]


def _scalars(node: Any) -> Scalars:
    """Yield every scalar by its last key, with the scalars of its list, if any."""
    children: list[tuple[str, Any]] = []
    siblings = None
    if isinstance(node, yaml.MappingNode):
        children = [(str(name.value), child) for name, child in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(str(index), child) for index, child in enumerate(node.value)]
        siblings = [child for child in node.value if isinstance(child, yaml.ScalarNode)]
    for name, child in children:
        if isinstance(child, yaml.ScalarNode):
            yield name, child, siblings
        yield from _scalars(child)


def _read(scalar: yaml.ScalarNode) -> Any:
    """Read a scalar as omegaconf, whose YAML has numbers that PyYAML doesn't know."""
    if scalar.style is not None:  # quoted, or a block
        return scalar.value
    try:
        return OmegaConf.create(f"- {scalar.value}")[0]
    except Exception:  # such as `${a}`, which refers to another key
        return scalar.value


def _yaml_quote(scalar: yaml.ScalarNode) -> str:
    text = str(scalar.value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _quote_elements(value: str) -> str:
    value = value.strip()
    if value.startswith("[") and value.endswith("]"):
        return f"[{','.join(map(_quote_elements, _split(value[1:-1])))}]"
    if value.startswith("{") and value.endswith("}"):
        pairs = [part.partition(":") for part in _split(value[1:-1])]
        return f"{{{','.join(f'{k.strip()}:{_quote_elements(v)}' for k, _, v in pairs)}}}"
    override = _parsed(f"x={value}")
    is_text = override and not override.is_sweep_override() and isinstance(override.value(), str)
    return value if is_text else _quote(value)


def _quote(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value
    return QuotedString(text=value, quote=Quote.double).with_quotes()


def _split(values: str) -> list[str]:
    """Split at commas outside of brackets and quotes."""
    parts, quote = [""], ""
    closing: list[str] = []
    for character in values:
        if not closing and not quote and character == ",":
            parts.append("")
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and not parts[-1].strip(" [{,:"):
            quote = character
        elif character in BRACKETS:
            closing.append(BRACKETS[character])
        elif closing and character == closing[-1]:
            closing.pop()
        parts[-1] += character
    return parts


def _parsed(override: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None
