"""Prompt templates and long texts, by hand."""

from __future__ import annotations

import logging
from copy import copy
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ColourNet, preprocess, write_colours
from tiny_encoders import WORDS, PlaneEncoder, word_tokenizer

from clipdissect import encoder
from clipdissect.api import dissect
from clipdissect.capture.capture import Settings
from clipdissect.encoder.prompts import PromptEncoder, checked
from clipdissect.errors import DissectError
from clipdissect.models import tokenizers


def test_mean_over_templates_is_of_unit_vectors_and_has_unit_length() -> None:
    # (0, 1) + (0.6, 0.8) = (0.6, 1.8), of length 1.8974.
    found = PromptEncoder(PlaneEncoder(), ("a {}", "my {}")).embed_texts(["cat"])
    assert found[0].tolist() == pytest.approx([0.6 / 3.6**0.5, 1.8 / 3.6**0.5])
    plain = PromptEncoder(PlaneEncoder()).embed_texts(["cat"])
    assert plain[0].tolist() == [1.0, 0.0]


def test_templates_are_part_of_the_text_digest_only() -> None:
    plain, a, b = (PromptEncoder(PlaneEncoder(), t) for t in ((), ("a {}",), ("my {}",)))
    assert plain.text_digest == PlaneEncoder().text_digest
    assert len({plain.text_digest, a.text_digest, b.text_digest}) == 3
    assert plain.image_digest == a.image_digest
    assert a.notes == ("a concept's embedding is the mean over 1 prompt templates, such as 'a {}'",)


def test_packaged_templates() -> None:
    pytest.importorskip("open_clip")
    openai, _ = checked("openai", "report")
    assert len(openai) == 80
    assert openai[0] == "a bad photo of a {}."
    assert len(checked("imagenet_short", "report")[0]) == 7
    assert checked("none", "report") == checked(None, "report") == ((), "report")
    assert checked(["a {}"], "error") == (("a {}",), "error")
    assert checked("a {}", "report")[0] == ("a {}",)


@pytest.mark.parametrize(
    ("templates", "says"),
    [
        ("opena", "Did you mean openai"),
        (["a photo"], "one {} each.*'a photo'"),
        (["{} and {}"], "one {} each"),
        ([], "one {} each"),
        ([3], "one {} each.*3"),
    ],
)
def test_wrong_templates(templates: object, says: str) -> None:
    with pytest.raises(DissectError, match=says):
        checked(templates, "report")


def test_braces_in_texts_and_templates_are_left_alone() -> None:
    seen: list[str] = []

    class Spy(PlaneEncoder):
        def embed_texts(self, texts: list[str], device: str = "cpu"):  # type: ignore[no-untyped-def, override]
            seen.extend(texts)
            return super().embed_texts(texts, device)

    PromptEncoder(Spy(), ("{x} {}",)).embed_texts(["{}", "{0.__class__}"])
    assert seen == ["{x} {}", "{x} {0.__class__}"]


def test_long_texts_are_counted_named_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    texts = ["cat", *(f"{i} is too long" for i in range(4)), "x" * 100]
    with caplog.at_level(logging.WARNING):
        PromptEncoder(PlaneEncoder()).embed_texts(texts)
    says = (
        "5 of 6 texts are longer than the 10 tokens that plane takes: '0 is too long' (13 tokens), "
        "'1 is too long' (13 tokens), '2 is too long' (13 tokens), ...; what is beyond was cut off "
        "(encoder.long_texts=error stops instead)"
    )
    assert [r.getMessage() for r in caplog.records] == [says]
    with pytest.raises(DissectError, match="5 of 6 texts"):
        PromptEncoder(PlaneEncoder(), (), "error").embed_texts(texts)
    with pytest.raises(DissectError, match="Did you mean report"):
        checked("none", "reprt")


def test_templates_count_towards_the_length() -> None:
    assert PromptEncoder(PlaneEncoder()).text_notes(["1234567890"]) == ()
    assert (
        "(15 tokens)"
        in PromptEncoder(PlaneEncoder(), ("{}", "such {}")).text_notes(["1234567890"])[0]
    )


def test_counting_is_left_out_where_the_length_leaves_no_doubt() -> None:
    class Never(PlaneEncoder):
        def count_tokens(self, texts: list[str]) -> list[int]:  # type: ignore[override]
            raise AssertionError(texts)

    assert PromptEncoder(Never(context_length=77)).text_notes(["cat"] * 9) == ()
    with pytest.raises(AssertionError, match="naïve"):
        PromptEncoder(Never(context_length=77)).text_notes(["naïve"])


def test_a_dissection_reports_long_texts_also_when_all_is_cached(tmp_path: Path) -> None:
    write_colours(tmp_path / "images")
    for _ in range(2):
        result = dissect(
            ColourNet().eval(),
            ["conv"],
            probe=tmp_path / "images",
            store=tmp_path / "store",
            concepts=["red", "rather a dark blue"],
            preprocess=preprocess(),
            top=1,
            images=1,
            encoder=PromptEncoder(ThreeColours()),
            similarity="cosine",
            settings=Settings(device="cpu", workers=0),
        )
        assert "1 of 2 texts" in result.run["notes"][0]
    assert result.run["computed"] == []
    assert encoder.text_notes(ThreeColours(), ["x" * 99]) == ()  # a plain encoder can't tell


class ThreeColours(PlaneEncoder):
    """A colour encoder that counts characters."""

    def embed_texts(self, texts: list[str], device: str = "cpu"):  # type: ignore[no-untyped-def, override]
        return super(PlaneEncoder, self).embed_texts(texts, device)


LIMIT = 9


@cache
def open_clip_tokenizers() -> list[object]:
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    wrapped = HFTokenizer.__new__(HFTokenizer)
    wrapped.tokenizer, wrapped.context_length = word_tokenizer(False, LIMIT), LIMIT
    wrapped.clean_fn, wrapped.tokenizer_mode = lambda text: text.strip(), ""
    wrapped.strip_sep_token = False
    return [SimpleTokenizer(context_length=LIMIT), wrapped]


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=14),
        st.lists(st.sampled_from(["cat", "&amp;", "&nGt;", "é", "12", " ", "!?"]), max_size=12).map(
            " ".join
        ),
    )
)
def test_counts_agree_with_what_the_tokenizers_do(text: str) -> None:
    # Given one place more, a text that was cut fills it, and one that wasn't leaves it empty.
    for tokenizer in open_clip_tokenizers():
        row = tokenizer([text], context_length=LIMIT + 1)[0]  # type: ignore[operator]
        (counted,) = tokenizers.count(tokenizer, [text])
        assert (counted > LIMIT) == (row[-1].item() != 0)
        if counted <= LIMIT:
            assert counted == (row != 0).sum().item() or "!" in text  # whose token is 0
        # Whatever isn't counted, because it is short and plain, fits.
        wrapped = PromptEncoder(Counting(tokenizer))
        assert bool(wrapped.text_notes([text])) == (counted > LIMIT)


class Counting(PlaneEncoder):
    """Counts with a tokenizer of open_clip."""

    def __init__(self, tokenizer: object) -> None:
        super().__init__(context_length=LIMIT)
        self.tokenizer = tokenizer

    def count_tokens(self, texts: list[str]) -> list[int]:  # type: ignore[override]
        return tokenizers.count(self.tokenizer, texts)


def test_special_tokens_count() -> None:
    clip, words = open_clip_tokenizers()
    assert tokenizers.count(clip, ["cat", ""]) == [3, 2]  # start and end
    assert tokenizers.count(words, ["cat", "a photo of a dog", ""]) == [2, 6, 1]  # the end only
    clips = copy(words)
    clips.tokenizer_mode = "clips"  # type: ignore[attr-defined]
    assert tokenizers.count(clips, ["cat"]) == [4]  # start, end and class


def test_digest_of_a_tokenizer() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    made = [
        SimpleTokenizer(),
        SimpleTokenizer(),
        SimpleTokenizer(context_length=9),
        SimpleTokenizer(clean="whitespace"),
    ]
    made[1](["warm up its cache"])
    first, same, shorter, unclean = (tokenizers.digest_of(t) for t in made)
    assert first == same
    assert len({first, shorter, unclean}) == 3
    one, other = (
        word_tokenizer(True, 8),
        word_tokenizer(True, 8, [*WORDS, "more"]),
    )
    before = tokenizers.digest_of_hf(one, 8)
    one(["cat"], padding="max_length", max_length=5, truncation=True)  # which it remembers
    assert tokenizers.digest_of_hf(one, 8) == before
    assert len({before, tokenizers.digest_of_hf(one, 9), tokenizers.digest_of_hf(other, 8)}) == 3
