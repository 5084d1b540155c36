"""What must be text is refused unless it was written as text, with the form to use."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.errors import ValidationError

from clipdissect import concepts, probe
from clipdissect.app import evaluation_job
from clipdissect.app.help import conf_folder
from clipdissect.app.schema import OPTIONS, Root, Text, register, schema_of, strict
from clipdissect.app.user_errors import explain, on_command_line
from clipdissect.errors import DissectError, MissingResource

# Words that YAML or Hydra's grammar read as something else, and characters that they refuse.
WORDS = ["no", "yes", "on", "1e3", "010", "12:30:45", "true", "null", "inf", "1_000", "~", "2024"]
NASTY = [
    "~/photos",
    "my photos (1)",
    "photos[1]",
    "[x",
    "x]",
    "{a: b}",
    "café",
    "don't",
    'a "b"',
    "a,b",
    "a=b",
    "#1",
    "C:\\new",
    "back\\",
    "a;b",
    "$HOME & co",
    'x y\\"z',
    "ümlaut/ß",
    "*?!",
    " blank ",
]
LISTED = [w for w in WORDS + NASTY if not set(",[]{'") & set(w) and w[-1] != "\\"] + ["don't"]
TEXTS = {
    (group, option, name): hint
    for group, options in OPTIONS.items()
    for option, parameters in options.items()
    for name, hint in get_type_hints(schema_of(option, parameters)).items()
    if "Union[str, bytes" in str(hint)
}


@pytest.fixture(autouse=True)
def hydra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    register()
    monkeypatch.setattr(sys, "argv", ["clipdissect dissect", "--config-dir", str(tmp_path)])
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield


def composed(*overrides: str) -> Any:
    return OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)


def said(*overrides: str) -> str:
    with pytest.raises(Exception) as caught:
        composed(*overrides)
    message = explain(caught.value)
    assert message is not None
    assert "Union" not in message
    return message


def advised(message: str) -> str:
    """The override that a message advises, as the shell passes it."""
    (override,) = shlex.split(message.partition("write ")[2])
    return override


@pytest.mark.parametrize("group", OPTIONS)
def test_text_parameters_take_nothing_else(group: str) -> None:
    for (of, option, name), hint in TEXTS.items():
        if of != group:
            continue
        config = OmegaConf.structured(schema_of(option, OPTIONS[group][option]))
        many = "list[" in str(hint)
        OmegaConf.update(config, name, ["a", "b"] if many else "a")
        for wrong in (1000.0, False, 8):
            with pytest.raises(ValidationError):
                OmegaConf.update(config, name, ["a", wrong] if many else wrong)


def test_there_are_text_parameters() -> None:
    assert ("probe", "folder", "root") in TEXTS
    assert ("concepts", "list", "texts") in TEXTS
    assert ("target", "module", "layers") in TEXTS
    assert len(TEXTS) > 200


@pytest.mark.parametrize(
    "key", ["paths.results", "paths.store", "capture.device", "evaluation.truth", "objective"]
)
def test_text_of_no_group_takes_nothing_else(key: str) -> None:
    config = OmegaConf.structured(strict(Root))
    OmegaConf.update(config, key, "auto")
    with pytest.raises(ValidationError):
        OmegaConf.update(config, key, 1000.0)


@pytest.mark.parametrize("word", ["1e3", "null", "~/photos", "photos[1]", "[x", "{a: b}", "don't"])
def test_what_a_message_advises_gives_the_text(word: str) -> None:
    override = advised(said("probe=folder", f"probe.root={word}"))
    assert composed("probe=folder", override)["probe"]["root"] == word


@pytest.mark.parametrize("word", ["1e3", "true", "café", "~/photos", "don't"])
def test_what_a_message_advises_for_a_list_gives_the_texts(word: str) -> None:
    override = advised(said("concepts=list", f"concepts.texts=[cat,{word},dog]"))
    assert composed("concepts=list", override)["concepts"]["texts"] == ["cat", word, "dog"]


def read(override: str | None) -> Any:
    """What Hydra reads of an override in the shell's words."""
    assert override is not None
    (plain,) = shlex.split(override)
    return OverridesParser.create().parse_override(plain).value()


def test_quoted_texts_survive_the_shell_and_hydra() -> None:
    for word in WORDS + NASTY:
        assert read(on_command_line(f"probe.root={word}", whole=True)) == word
    assert read(on_command_line(f"concepts.texts=[{','.join(LISTED)}]")) == [
        word.strip() for word in LISTED
    ]


def test_messages_name_the_key_and_the_quoted_form() -> None:
    assert said("probe=folder", "probe.root=1e3") == (
        "probe.root must be text, and 1e3 is read as a number: write 'probe.root=\"1e3\"'"
    )
    assert said("probe=folder", "probe.root=~/photos").endswith("write 'probe.root=\"~/photos\"'")
    assert '\'concepts.texts=[no,"1e3","true"]\'' in said(
        "concepts=list", "concepts.texts=[no,1e3,true]"
    )
    several = said("probe=folder", "probe.root=a,b")
    assert "'probe.root=\"a,b\"'" in several and "'probe.root=[a,b]'" in several
    assert "no option" in said("photos")


def test_a_sweeps_values_are_named_as_they_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["clipdissect dissect", "-m", "probe.root=1e3,2e3"])
    # What Hydra makes of the first job.
    message = said("probe=folder", "probe.root=1000.0")
    assert message.endswith("""write 'probe.root="1e3","2e3"'""")


WRITTEN = "[no, yes, on, 1e3, 010, 12:30:45]"
QUOTED = '["no", "yes", "on", "1e3", "010", "12:30:45"]'


def test_yaml_files_are_refused_with_the_line_and_the_quoted_form(tmp_path: Path) -> None:
    file = tmp_path / "concepts" / "mine.yaml"
    file.parent.mkdir()
    text = "defaults:\n  - /schema/concepts/list@_here_\n  - _self_\nname: list\ntexts: {}\n"
    file.write_text(text.format(WRITTEN))
    search = f"hydra.searchpath=['file://{tmp_path}']"
    message = said(search, "concepts=mine")
    assert message.startswith(f"{file}, line 5: no is read as true or false")
    assert message.endswith(QUOTED)
    file.write_text(text.format(QUOTED))
    assert composed(search, "concepts=mine")["concepts"]["texts"] == [
        "no",
        "yes",
        "on",
        "1e3",
        "010",
        "12:30:45",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("paths:\n  results: 1e3\n", 'line 3: 1e3 is read as a number.*results: "1e3"'),
        ("paths:\n  store: 2024-01-01\n  results: on\n", 'line 4: on is read as.*results: "on"'),
        ("target:\n  layers:\n  - fc\n  - 1\n", r'line 5: 1 is read as a number.*\["fc", "1"\]'),
        ("top: many\n", "experiment/mine.yaml: top: "),
        ("tpo: 3\n", "experiment/mine.yaml: unknown config key 'tpo'.*top"),
    ],
)
def test_experiment_files_are_refused_alike(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{content}")
    message = said(f"hydra.searchpath=['file://{tmp_path}']", "experiment=mine")
    assert re.search(says, message, re.DOTALL), message


@pytest.mark.parametrize(
    "override",
    [
        "capture.device=cpu",
        "capture.device=cuda:1",
        "paths.store=null",
        "target.checkpoint=null",
        "target.layers=[layer4,blocks.*.mlp.fc1]",
        "paths.results=${oc.env:HOME}/x",
        "sentence=local,sentence.path=/a/b-c_d.e",
        "encoder.templates=none",
    ],
)
def test_what_is_text_needs_no_quotes(override: str) -> None:
    parts = override.split(",") if "sentence" in override else [override]
    composed(*parts)


def test_parts_of_unions_are_checked_where_they_are_built() -> None:
    with pytest.raises(DissectError, match=r"texts must be a list of texts; got \[False, 1000"):
        concepts.build("union", parts=[{"name": "list", "texts": [False, 1e3]}])


def test_the_schemas_text_is_what_the_wording_looks_for() -> None:
    assert str(Text).replace("typing.", "") == "Union[str, bytes]"


def test_lists_of_text_are_plain_where_the_runners_read_them() -> None:
    # omegaconf yields its nodes, not their values, when a list of a union's values is iterated.
    with pytest.raises(MissingResource, match="the run to compare with"):
        evaluation_job.earlier(compose("config", overrides=["evaluation.against=[gone]"]))


def test_a_folder_may_start_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    config = compose("config", overrides=['paths.results="~/x"'], return_hydra_config=True)
    raw: Any = OmegaConf.to_container(config.hydra.run, resolve=False)
    assert raw["dir"].startswith("${expand:${paths.results}}/")
    assert OmegaConf.create({"a": "${expand:${b}}", "b": "~/x"}).a == "/somewhere/x"


def test_shards_must_be_text() -> None:
    for wrong in (1e3, [1, 2]):
        with pytest.raises(DissectError, match=r"probe\.shards must be text"):
            probe.build("webdataset", shards=wrong)
