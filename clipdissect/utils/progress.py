"""Progress bars: text in a terminal, a widget in a notebook, none in a file or pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sized
from typing import Any

from tqdm.auto import tqdm  # a widget in a notebook with ipywidgets, else text


def progress(
    work: Iterable[Any] | int,
    description: str,
    unit: str = "it",
    *,
    total: int | None = None,
    leave: bool = False,
) -> tqdm[Any]:
    """Return a progress bar over an iterable, or over a number of steps given by `update`.

    `TQDM_DISABLE=1` hides it.

    Args:
        work: what is iterated over, or the number of steps.
        description: the bar's label.
        unit: what a step is called.
        total: the number of steps, for an iterable without a length.
        leave: whether the bar stays on the screen when it is complete.
    """
    iterable = None if isinstance(work, int) else work
    if isinstance(work, int):
        total = work
    elif total is None and isinstance(work, Sized):
        total = len(work)
    hidden = total == 0 or bool(os.environ.get("TQDM_DISABLE"))
    # None hides the bar unless stderr is a terminal, which it isn't in a notebook either.
    disable = hidden or (False if in_notebook() else None)
    return tqdm(iterable, description, total, leave, unit=unit, disable=disable)


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, rather than a terminal's program."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config
