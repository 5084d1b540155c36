"""Texts are embedded in batches of similar length, and come back in their order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipdissect.encoder import batches


def tokenize(texts: list[str]) -> dict[str, Tensor]:
    rows = [torch.tensor([ord(c) for c in text.ljust(9, "\0")]) for text in texts]
    return {"text": torch.stack(rows)}


def lengths(tokens: batches.Tokens) -> Tensor:
    return (tokens["text"] > 0).sum(-1)


@pytest.mark.parametrize("chunk", [3, 100])
def test_texts_come_back_in_their_order(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(batches, "CHUNK", chunk)
    monkeypatch.setattr(batches, "TOKENS_ON_CPU", 8)
    texts = ["abc", "a", "abcdefghi", "b", "ab", "c", "abcd"]
    sizes = []

    def encode(tokens: batches.Tokens) -> Tensor:
        text = tokens["text"]
        sizes.append(tuple(text.shape))
        return torch.stack([text.sum(-1), text[:, 0]], dim=-1)

    found = batches.in_batches(texts, tokenize, lengths, encode, "cpu")
    sums = torch.tensor([[sum(map(ord, text)), ord(text[0])] for text in texts])
    torch.testing.assert_close(found, F.normalize(sums.float(), dim=-1))
    assert all(rows * width <= 8 or rows == 1 for rows, width in sizes)
    first = [(4, 2), (2, 4), (1, 9)] if chunk == 100 else [(2, 3), (1, 9)]
    assert sizes[: len(first)] == first
