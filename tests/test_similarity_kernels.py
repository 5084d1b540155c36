"""The compiled inner loops against the plain ones, and doing without them."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clipdissect.similarity import kernels
from clipdissect.similarity.kernels import dispatch, plain

needs_numba = pytest.mark.skipif(kernels.backend() != "numba", reason="Numba doesn't work here")


@needs_numba
def test_the_compiled_loops_are_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests below would compare the plain loops with themselves."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("a plain loop ran")

    for name in ("log_product_sums", "row_sums", "rank_errors", "update_best"):
        monkeypatch.setattr(plain, name, refuse)
    x, index = torch.rand(4, 3), torch.zeros(2, 2, dtype=torch.int32)
    kernels.row_sums(x, index)
    kernels.log_product_sums(x, index, torch.ones(1, 2), torch.ones(1, 2), 2)
    kernels.rank_errors(x.T.contiguous(), index, torch.rand(2, 2), 3.0)
    kernels.update_best(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.int64), x[:2], 0)
    assert kernels.backend() == "numba"


@needs_numba
@pytest.mark.parametrize("units_of_p", [1, 6])
@pytest.mark.parametrize(("k", "group", "block"), [(1, 1, 1), (7, 3, 33), (50, 12, 64)])
def test_log_product_sums(units_of_p: int, k: int, group: int, block: int) -> None:
    torch.manual_seed(0)
    s, index = torch.rand(40, block), torch.randint(0, 40, (6, k), dtype=torch.int32)
    weight = torch.rand(units_of_p, k) * 0.9
    base = 1 - weight
    compiled = kernels.log_product_sums(s, index, base, weight, group)
    wanted = plain.log_product_sums(s, index, base, weight, group)
    torch.testing.assert_close(compiled, wanted)
    exact = (base[..., None].double() + weight[..., None] * s[index.long()]).log().sum(1)
    torch.testing.assert_close(compiled.double(), exact, atol=1e-5, rtol=1e-5)


@needs_numba
def test_row_sums() -> None:
    x, index = torch.randn(40, 70), torch.randint(0, 40, (6, 11), dtype=torch.int32)
    torch.testing.assert_close(kernels.row_sums(x, index), x[index.long()].sum(1))
    torch.testing.assert_close(plain.row_sums(x, index), x[index.long()].sum(1))


@needs_numba
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 2.5])
@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_rank_errors(p: float, levels: int) -> None:
    """Also with negative, zero and heavily tied values."""
    torch.manual_seed(0)
    columns = (torch.randn(20, 300) * levels).round() / levels
    columns[0] = torch.where(columns[0] > 0, 0.0, -0.0)
    index = torch.stack([torch.randperm(300)[:90] for _ in range(5)]).int()
    values = torch.rand(5, 90).sort(dim=1, descending=True).values
    compiled = kernels.rank_errors(columns, index, values, p)
    torch.testing.assert_close(compiled, plain.rank_errors(columns, index, values, p))


def test_update_best_in_blocks() -> None:
    torch.manual_seed(0)
    scores = torch.randint(-3, 4, (30, 90)).float()
    order = torch.argsort(-scores, dim=1, stable=True)[:, :7]
    for update in (kernels.update_best, plain.update_best):
        best = torch.full((30, 7), -torch.inf)
        concepts = torch.full((30, 7), 90)
        for start in (0, 4, 50):
            stop = {0: 4, 4: 50, 50: 90}[start]
            update(best, concepts, scores[:, start:stop].contiguous(), start)
        assert torch.equal(concepts, order)
        assert torch.equal(best, scores.gather(1, order))


def test_failure_falls_back_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.delenv("CLIPDISSECT_KERNELS", raising=False)
    monkeypatch.setattr(dispatch, "_failed", False)
    monkeypatch.setattr(dispatch, "_split", broken)
    x, index = torch.randn(9, 5), torch.randint(0, 9, (2, 3))
    with caplog.at_level(logging.WARNING):
        first, second = kernels.row_sums(x, index), kernels.row_sums(x, index)
    assert torch.equal(first, plain.row_sums(x, index))
    assert torch.equal(second, first)
    assert len(caplog.records) == 1
    assert kernels.backend() == "torch"


def test_without_numba(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("CLIPDISSECT_KERNELS", raising=False)
    monkeypatch.setattr(dispatch, "_failed", False)
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in ("compiled", "compiled_ranks"):
        monkeypatch.delitem(sys.modules, f"{dispatch._PACKAGE}.{name}", raising=False)
    with caplog.at_level(logging.WARNING):
        assert kernels.backend() == "torch"
        assert kernels.backend() == "torch"
    assert len(caplog.records) == 1


@needs_numba
def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """An installed copy whose folder, and the user's, are read-only still computes."""
    import clipdissect

    package = tmp_path / "clipdissect"
    source = Path(clipdissect.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    blocked = tmp_path / "file"
    blocked.write_text("")
    kernels_folder = package / "similarity" / "kernels"
    # A file in the place of the cache's folder blocks it for root too.
    (kernels_folder / "__pycache__").write_text("")
    code = (
        "import torch; from clipdissect.similarity import kernels;"
        "x = torch.ones(4, 3); print(kernels.backend(), kernels.__file__);"
        "print(kernels.row_sums(x, torch.zeros(2, 2, dtype=torch.int32)).sum().item())"
    )
    environment = {
        **{
            k: v
            for k, v in os.environ.items()
            if k not in ("NUMBA_CACHE_DIR", "CLIPDISSECT_KERNELS")
        },
        "PYTHONPATH": str(tmp_path),
        "HOME": str(blocked),
        "XDG_CACHE_HOME": str(blocked),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert done.stdout.split()[-1] == "12.0"
