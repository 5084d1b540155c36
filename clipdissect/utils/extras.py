"""Installation of optional dependencies."""

from __future__ import annotations


def install(extra: str) -> str:
    """Return the command that installs an extra (`hf`, `remote`, ...) of `pyproject.toml`."""
    # clipdissect is on no package index: its name alone would install another package.
    return f"pip install -e '.[{extra}]' in clipdissect's checkout (scripts/setup {extra} there)"
