"""Command lines that the documents and the messages advise are ones that compose."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from clipdissect.app.help import COMMANDS, RUNNERS, conf_folder, group_folders
from clipdissect.app.schema import OPTIONS, Root, schema_of, strict

CONF = conf_folder()
CHOICES = {folder.name: {path.stem for path in folder.glob("*.yaml")} for folder in group_folders()}
KEYS = {*CHOICES, *Root.__dataclass_fields__}
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
SOURCES = [p for name in ("clipdissect", "experiments") for p in (ROOT / name).rglob("*.py")]
# In a text: a key of the config and what it is set to.
ADVICE = re.compile(
    r"(?<![\w.`=/\[<{,-])(\+?[a-z_]+(?:\.[a-zA-Z_]+)*)=(\[[^\]]*\]|\{.*?\}+|<[^>]*>|[^\s,;)'\"`]+)"
)
COMMAND = re.compile(
    r"(?:^|`|&& )(?:[A-Z_]+=\S+ )*(?:\S*/)?clipdissect (?P<rest>[a-z_]+ [^`\n#]*)", re.M
)
# What stands for anything: in a placeholder, and of an f-string.
ANYTHING = re.compile(r"<[^>]*>|\{path\}|X|%s|NAME|FILE|FOLDER|\.\.\.")


def problem(override: str) -> str | None:
    """Why an override can't compose with any option of its group; None where it can."""
    key, _, value = override.partition("=")
    plain = key.lstrip("+")
    first = plain.split(".")[0].split("@")[0]
    if first == "hydra" or first.startswith("hydra/"):
        return None
    if first not in KEYS:
        return f"{first} is no key of the config"
    try:
        parsed = OverridesParser.create().parse_override(override)
    except Exception as error:
        return f"{override}: {error}"
    if plain in CHOICES:
        names = [str(v) for v in parsed.sweep_iterator()] if parsed.is_sweep_override() else [value]
        wrong = [
            n for n in names if n not in CHOICES[plain] and n != "null" and not ANYTHING.search(n)
        ]
        return f"{plain} has no {wrong}" if wrong else None
    if first in ("profile", "experiment", "hydra"):
        return None
    return _of_value(first, plain, parsed, key.startswith("+"))


def _of_value(first: str, key: str, parsed: object, adds: bool) -> str | None:
    values = list(parsed.sweep_iterator()) if parsed.is_sweep_override() else [parsed.value()]  # type: ignore[attr-defined]
    schemas = [strict(Root)]
    if first in OPTIONS:
        schemas = [schema_of(*option) for option in OPTIONS[first].items()]
        key = key.partition(".")[2]
    said = f"no option has {key}"
    for schema in schemas:
        config = OmegaConf.structured(schema)
        OmegaConf.set_struct(config, True)
        try:
            for value in values:
                if not ANYTHING.search(str(value)):
                    OmegaConf.update(config, key, value, force_add=adds)
                elif key.split(".")[0] not in schema.__dataclass_fields__:
                    raise KeyError(key)
            return None
        except Exception as error:
            said = str(error).splitlines()[0]
    return said


def commands(text: str) -> Iterator[list[str]]:
    """The words behind `clipdissect` in a document."""
    for match in COMMAND.finditer(text.replace("\\\n", " ")):
        try:
            yield shlex.split(match["rest"])
        except ValueError:
            continue


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_compose(document: Path) -> None:
    for name, *words in commands(document.read_text()):
        assert name in (*RUNNERS, *COMMANDS, "help"), f"clipdissect {name}"
        if name not in (*RUNNERS, "layers"):
            continue
        for word in words:
            if "=" in word and not word.startswith("-"):
                assert problem(_filled(word)) is None, f"{word}: {problem(_filled(word))}"


def texts(source: Path) -> Iterator[str]:
    """The strings of a module, with X for what f-strings put in."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(v.value if isinstance(v, ast.Constant) else "X" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def advice() -> Iterator[tuple[str, str]]:
    for source in SOURCES:
        for text in texts(source):
            for match in ADVICE.finditer(text):
                override = match[0].rstrip(".")
                cut = any(override.count(a) != override.count(b) for a, b in ("[]", "{}"))
                cut |= "(" in override
                if (
                    "concepts=[" not in override
                    and match[1].lstrip("+").split(".")[0] in KEYS
                    and not cut
                ):
                    yield source.name, override


def test_what_messages_and_docstrings_advise_composes() -> None:
    found = sorted(set(advice()))
    assert len(found) > 80
    wrong = [(where, what, problem(_filled(what))) for where, what in found]
    assert not [about for about in wrong if about[2]]


def _filled(override: str) -> str:
    key, _, value = override.partition("=")
    return f"{key}={ANYTHING.sub('X', value)}"


def test_a_wrong_advice_is_noticed() -> None:
    assert problem("comparison.probes={stamps: stamps}")
    assert problem("+comparison.probes.stamps=stamps") is None
    assert problem("probe.rot=x")
    assert problem("concepts=wordfreq_2k")
    assert problem("concepts.texts=[cat,1]")
