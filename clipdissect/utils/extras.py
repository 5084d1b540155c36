"""How to install what only some jobs need."""

from __future__ import annotations


def install(extra: str) -> str:
    """Return the command that installs an extra of `pyproject.toml`.

    Args:
        extra: `offline`, `hf`, `remote`, `sweep` or `dev`.
    """
    # No package index has clipdissect: the name alone would install somebody else's package.
    return f"pip install -e '.[{extra}]' in clipdissect's checkout (scripts/setup {extra} there)"
