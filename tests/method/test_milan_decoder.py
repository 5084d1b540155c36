"""MILAN's decoder, language model and search against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from milan_files import STOP, F, Modules, Plain, payload, write
from torch import Tensor

from clipdissect.method.milan import checkpoint
from clipdissect.method.milan.captions import Decoding, captions, ranked
from clipdissect.method.milan.checkpoint import Checkpoint
from clipdissect.method.milan.vocabulary import Vocabulary, sentence

UNITS, EXEMPLARS = 3, 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return checkpoint.load(write(tmp_path_factory.mktemp("milan") / "milan.pth"))


@pytest.fixture(scope="module")
def plain() -> Plain:
    with Modules("thinc.config"):
        return Plain(payload()["state_dict"])


@pytest.fixture(scope="module")
def features() -> Tensor:
    return torch.randn(UNITS, EXEMPLARS, F, generator=torch.Generator().manual_seed(3))


PRESENT = torch.tensor([[True] * 4, [True, False, True, False], [True] * 4])


def own(features: Tensor, unit: int) -> np.ndarray:  # type: ignore[type-arg]
    return features[unit][PRESENT[unit]].double().numpy()


@torch.no_grad()
def test_log_probabilities_token_by_token(
    model: Checkpoint, plain: Plain, features: Tensor
) -> None:
    texts = [[0, 1, 5, STOP], [3, 4, 5, 1], [7, 2, 0, 0]]
    evidence = model.decoder.evidence(features, PRESENT)
    state = model.decoder.initial(evidence)
    before = torch.full((UNITS, 1), model.vocabulary.start)
    for n in range(4):
        log_probs, state = model.decoder.step(evidence, before, state)
        for unit, text in enumerate(texts):
            expected = plain.next_token(own(features, unit), text[:n])
            np.testing.assert_allclose(log_probs[unit, 0], expected, atol=2e-4)
        before = torch.tensor([[text[n]] for text in texts])


@torch.no_grad()
def test_the_language_model_counts_one_stop_token_too_many(model: Checkpoint, plain: Plain) -> None:
    ends_early, ends_last, never = [0, 1, STOP, STOP, STOP], [0, 1, 2, 3, STOP], [0, 1, 2, 3, 4]
    at_once = [STOP] * 5
    texts = [ends_early, ends_last, never, at_once]
    assert model.lm is not None
    found = model.lm.log_prob(torch.tensor(texts), model.vocabulary.start, STOP)
    np.testing.assert_allclose(found, [plain.prior(text) for text in texts], atol=1e-4)
    single = [plain.next_of_language(ends_early[:n])[token] for n, token in enumerate(ends_early)]
    assert float(found[0]) == pytest.approx(sum(single[:4]), abs=1e-4)  # not 3, and not 5
    assert float(found[0]) != pytest.approx(sum(single[:3]), abs=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 3, 50])
@pytest.mark.parametrize("strategy", ["beam", "mi"])
def test_search_finds_the_texts_of_a_plain_search(
    model: Checkpoint, plain: Plain, features: Tensor, beam: int, strategy: str
) -> None:
    length = 4 if beam == 50 else 6
    decoding = Decoding(strategy, 0.3, beam, length)
    beams = ranked(model, model.decoder.evidence(features, PRESENT), decoding)
    for unit in range(UNITS):
        mi = 0.3 if strategy == "mi" else 0.0
        expected = plain.search(own(features, unit), beam, length, mi)
        assert beams.tokens[unit].tolist() == [text for text, _ in expected]
        np.testing.assert_allclose(beams.scores[unit], [s for _, s in expected], atol=1e-3)


def test_reranked_captions(model: Checkpoint, plain: Plain, features: Tensor) -> None:
    found = captions(model, features, PRESENT, Decoding(lam=0.7, beam=5, length=6))
    changed = 0
    for unit in range(UNITS):
        texts = plain.search(own(features, unit), 5, 6)
        scores = [score - 0.7 * plain.prior(text) for text, score in texts]
        best: dict[str, float] = {}
        for n in np.argsort(-np.array(scores)):
            text = model.vocabulary.text(texts[n][0])
            if text:
                best.setdefault(text, scores[n])
        assert found[unit][0] == list(best)
        np.testing.assert_allclose(found[unit][1], list(best.values()), atol=1e-3)
        changed += int(np.argmax(scores) != 0)
    assert changed  # the language model matters


def test_units_do_not_depend_on_their_batch(
    model: Checkpoint, features: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = captions(model, features, PRESENT, Decoding(beam=4))
    monkeypatch.setattr("clipdissect.method.milan.captions.UNITS_AT_ONCE", 1)
    alone = captions(model, features, PRESENT, Decoding(beam=4))
    assert [texts for texts, _ in alone] == [texts for texts, _ in together]
    for one, other in zip(alone, together, strict=True):
        assert one[1] == pytest.approx(other[1], abs=1e-4)
    absent = PRESENT & torch.tensor([[True], [False], [True]])
    assert captions(model, features, absent, Decoding(beam=4))[1] == ([], [])


def test_temperature_flattens(model: Checkpoint, plain: Plain, features: Tensor) -> None:
    cold = Decoding("beam", beam=1, length=1, temperature=1.0)
    evidence = model.decoder.evidence(features[:1], PRESENT[:1])
    first = plain.next_token(own(features, 0), [])
    assert float(ranked(model, evidence, cold).scores[0, 0]) == pytest.approx(first.max(), abs=1e-4)
    halved = first / 2 - np.log(np.exp(first / 2).sum())
    warm = Decoding("beam", beam=1, length=1, temperature=2.0)
    assert float(ranked(model, evidence, warm).scores[0, 0]) == pytest.approx(
        halved.max(), abs=1e-4
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["a", "dog"], "A dog"),
        (["red", "-", "haired", "dogs"], "Red-haired dogs"),
        (["sky", ",", "sea", "."], "Sky, sea."),
        (["a", "dog", ".", "the", "sky", ":", "red", ";", "blue"], "A dog. The sky: red; blue"),
        ([], ""),
    ],
)
def test_sentences(words: list[str], text: str) -> None:
    assert sentence(words) == text


def test_texts_end_at_the_first_stop_token_and_lack_special_ones() -> None:
    vocabulary = Vocabulary(("a", "dog"))
    assert (len(vocabulary), vocabulary.start, vocabulary.stop) == (6, 2, 3)
    assert vocabulary.text([2, 0, 5, 1, 3, 1]) == "A dog"
    assert vocabulary.text([3, 3]) == ""
    assert vocabulary.text([0, 1, 4]) == "A dog"  # never stops
