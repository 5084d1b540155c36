"""Progress bars: where they are shown."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from types import SimpleNamespace

import pytest

from clipdissect.utils.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, work: Iterable[str]) -> str:
    """Return what a bar writes; not by a fixture, after which pytest replaces the stream."""
    monkeypatch.setattr(sys, "stderr", stream)
    assert "".join(progress(work, "letters", total=3 if work else None, leave=True)) in ("abc", "")
    return stream.getvalue()


def test_a_terminal_shows_text(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal(), "abc")
    assert "letters: 100%" in text
    assert "3/3" in text


def test_steps_are_counted_by_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    with progress(4, "images", "img", leave=True) as bar:
        bar.update(3)
    assert "3/4" in stream.getvalue()


def test_a_file_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO(), iter("abc")) == ""


def test_a_notebook_has_a_bar_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    assert "letters: 100%" in shown(monkeypatch, io.StringIO(), "abc")


def test_a_bar_over_nothing_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, Terminal(), ()) == ""


def test_bars_are_hidden_by_tqdm_disable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert shown(monkeypatch, Terminal(), "abc") == ""
