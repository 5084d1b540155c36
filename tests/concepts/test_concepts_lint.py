"""What the linter of concept lists finds, and how the command tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipdissect import concepts
from clipdissect.app.commands import concepts as command
from clipdissect.concepts.lint import ALIKE, LONG, alike, lint, too_long


def test_clean_list_has_nothing_to_mend() -> None:
    assert lint(concepts.resolve(["cat", "dog", "sea lion"])) == {}


def test_every_kind_of_finding() -> None:
    long = "a very long text " * 30
    found = lint(concepts.resolve(["cat", "cat", " ", "Cat", "seal", long]))
    assert found == {
        "duplicate": ("cat",),
        "blank": ("",),
        LONG: (long.strip(),),
        ALIKE: ("cat | Cat",),
    }


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["ice cream", "icecream", "Ice Cream"], ("ice cream | icecream | Ice Cream",)),
        (["caf\u00e9", "cafe\u0301"], ("caf\u00e9 | cafe\u0301",)),
        (["\ufb01sh", "fish"], ("\ufb01sh | fish",)),
        (["Straße", "STRASSE"], ("Straße | STRASSE",)),
        (["resume", "r\u00e9sum\u00e9"], ()),
        (["cat", "cat", "cats"], ()),
    ],
)
def test_texts_that_look_alike(texts: list[str], expected: tuple[str, ...]) -> None:
    assert alike(texts) == expected


def test_length_is_counted_in_tokens() -> None:
    # 75 words are 75 tokens and two marks, which just fit; the letters of one long word do too.
    assert too_long(["cat " * 75, "cat " * 76, "m" * 90]) == ("cat " * 76,)
    assert too_long(["cat " * 20], context=16) == ("cat " * 20,)


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["clipdissect concepts", *arguments])
    with pytest.raises(SystemExit) as exit_:
        command.main()
    said = capsys.readouterr()
    return int(str(exit_.value.code or 0)), said.out, said.err


def test_command_on_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.txt").write_text("cat\ncat\n\nCat\ndog\n")
    path = str(tmp_path / "words.txt")
    code, out, _ = run(monkeypatch, capsys, path)
    assert code == 0
    assert out.splitlines() == [
        "words: 3 texts after cleaning",
        "  duplicate: 1",
        "    cat",
        "  blank: 1",
        f"  {ALIKE}: 1",
        "    cat | Cat",
    ]
    assert run(monkeypatch, capsys, path, "--strict")[0] == 1
    as_config = run(monkeypatch, capsys, "concepts=file", f"concepts.path={path}", "--show=0")
    assert as_config[1].splitlines() == [
        "words: 3 texts after cleaning",
        "  duplicate: 1",
        "  blank: 1",
        f"  {ALIKE}: 1",
    ]
    (tmp_path / "words.txt").write_text("cat\ndog\n")
    code, out, _ = run(monkeypatch, capsys, path, "--strict")
    assert code == 0
    assert "no problems found" in out


def test_command_on_a_named_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(monkeypatch, capsys, "imagenet", "--strict")
    assert (code, out.splitlines()[0]) == (0, "imagenet: 1000 texts after cleaning")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gone.txt"], "gone.txt"),
        (["concepts=imagnet"], "Did you mean imagenet"),
        (["imagenet", "concepts.n=3"], "concepts.n"),
        (["gone.txt", "concepts.n=3"], "has no parameters"),
        (["a.txt", "b.txt"], "one list at a time"),
    ],
)
def test_mistakes_are_told_in_words(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert says in err
    assert not out
