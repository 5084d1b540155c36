"""Every name of the library that the documents mention can be reached as they write it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import clipdissect

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"\bclipdissect(?:\.[A-Za-z_]\w*)+")


def test_names_in_the_documents_resolve() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    names = sorted({name for page in pages for name in NAME.findall(page.read_text("utf-8"))})
    assert "clipdissect.utils.distributed.from_environment" in names
    # In a program of its own: here other tests have imported what might be missing.
    code = "import clipdissect\n" + "\n".join(names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_this_name'"):
        clipdissect.nothing_of_this_name  # noqa: B018
    assert not hasattr(clipdissect, "__wrapped__")
