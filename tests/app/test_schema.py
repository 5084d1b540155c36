"""The schema's file is the functions' signatures, and nothing heavy is imported to read it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipdissect.app import signatures
from clipdissect.app.help import SCHEMA

HEAVY = ("torch", "torchvision", "timm", "transformers", "scipy", "pandas", "numba", "open_clip")
# Runs a command as the console script does, then says which of the modules were imported.
COMMAND = """
import sys
from clipdissect.app.cli import main
heavy, sys.argv = sys.argv[1].split(","), ["clipdissect", *sys.argv[2:]]
try:
    main()
finally:
    print("imported:", [name for name in heavy if name in sys.modules])
"""


def test_the_file_is_what_the_signatures_are() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == signatures.text(), "run scripts/schema"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["similarity=softwpmi"], "Did you mean soft_wpmi"),
        (["similarity.topk=3"], "Did you mean similarity.top_k"),
        (["similarity.top_k=abc"], "similarity.top_k: Value 'abc'"),
        (["target=resnet51"], "Did you mean resnet50"),
        (["target.layers=a,b"], "has several values"),
        (["-m", "similarity.topk=1,2"], "Did you mean similarity.top_k"),
        (["--cfg", "job"], "name: soft_wpmi"),
        (["--help"], "usage: clipdissect dissect"),
    ],
)
def test_a_mistake_is_answered_without_the_library(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", COMMAND, ",".join(HEAVY), "dissect", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said in done.stdout + done.stderr
    assert done.stdout.endswith("imported: []\n")


@pytest.mark.parametrize(
    ("hint", "described"),
    [
        (str, "text"),
        (float | None, {"optional": "float"}),
        (list[str] | None, {"optional": {"list": "text"}}),
        (dict[str, Any], {"dict": "any"}),
    ],
)
def test_types_are_described(hint: Any, described: Any) -> None:
    assert signatures.type_of(hint) == described


@pytest.mark.parametrize("hint", [int | str, tuple[int, ...], dict[int, str]])
def test_other_types_are_refused(hint: Any) -> None:
    with pytest.raises(TypeError, match="must be plain"):
        signatures.type_of(hint)
