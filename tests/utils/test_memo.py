"""The last results of calls."""

from __future__ import annotations

import pickle

from clipdissect.utils.memo import Memo


def test_results_are_computed_once_and_the_oldest_dropped() -> None:
    calls: list[str] = []

    def compute(key: str) -> str:
        calls.append(key)
        return key.upper()

    memo: Memo[str] = Memo(2)
    assert [memo.get(key, lambda key=key: compute(key)) for key in "aabac"] == list("AABAC")
    assert calls == ["a", "b", "c"]
    assert (memo.find("b"), memo.find("a")) == (None, "A")  # b was used longest ago


def test_an_invalid_result_is_computed_again() -> None:
    memo: Memo[int] = Memo(1)
    memo.keep("a", 1)
    assert memo.get("a", lambda: 2, lambda result: result > 1) == 2
    assert memo.find("a") == 2


def test_other_processes_start_empty() -> None:
    memo: Memo[int] = Memo(3)
    memo.keep("a", 1)
    copy = pickle.loads(pickle.dumps(memo))  # noqa: S301 - of this test
    assert copy.find("a") is None
    assert copy.keep("b", 2) == 2
