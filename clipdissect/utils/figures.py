"""Save figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipdissect.utils.files import atomic


def save_figure(
    figure: Any, folder: Path, name: str, dpi: int = 150, formats: Sequence[str] = ("png", "pdf")
) -> None:
    """Write a matplotlib figure as `<name>.<format>`; equal figures give equal bytes."""
    for file_format in formats:
        metadata = {"CreationDate": None} if file_format == "pdf" else None
        with atomic(folder / f"{name}.{file_format}") as temporary:
            figure.savefig(temporary, format=file_format, dpi=dpi, metadata=metadata)
