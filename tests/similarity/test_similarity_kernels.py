"""The compiled inner loops against the plain ones, and doing without them."""

from __future__ import annotations

import logging
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clipdissect.similarity import kernels
from clipdissect.similarity.kernels import plain

needs_numba = pytest.mark.skipif(kernels.backend() != "numba", reason="Numba doesn't work here")


@needs_numba
def test_the_compiled_loops_are_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests below would compare the plain loops with themselves."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("a plain loop ran")

    for name in ("log_product_sums", "less_marginal", "rank_errors", "update_best"):
        monkeypatch.setattr(plain, name, refuse)
    x, index = torch.rand(4, 3), torch.zeros(2, 2, dtype=torch.int32)
    kernels.log_product_sums(x, index, torch.ones(4), torch.ones(1, 2), torch.ones(1, 2), 2)
    kernels.less_marginal(x.clone(), 1.0)
    kernels.rank_errors(x.T.contiguous(), index, torch.rand(2, 2), 3.0)
    kernels.update_best(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.int64), x[:2], 0)
    assert kernels.backend() == "numba"


@needs_numba
@pytest.mark.parametrize(("rows_of_base", "rows_of_weight"), [(1, 1), (6, 6), (1, 6), (6, 1)])
@pytest.mark.parametrize(
    ("images", "k", "group", "block"),
    [(40, 1, 1, 1), (40, 7, 3, 33), (40, 50, 12, 1100), (5000, 50, 12, 1100)],  # copied or not
)
def test_log_product_sums(
    rows_of_base: int, rows_of_weight: int, images: int, k: int, group: int, block: int
) -> None:
    torch.manual_seed(0)
    x, index = torch.rand(images, block) * 20, torch.randint(0, images, (6, k), dtype=torch.int32)
    scale = torch.rand(images) / 20
    weight, base = torch.rand(rows_of_weight, k) * 0.9, torch.rand(rows_of_base, k) * 0.5 + 0.05
    compiled = kernels.log_product_sums(x, index, scale, base, weight, group)
    wanted = plain.log_product_sums(x, index, scale, base, weight, group)
    torch.testing.assert_close(compiled, wanted)
    s = (x * scale[:, None]).double()[index.long()]
    exact = (base[..., None].double() + weight[..., None] * s).log().sum(1)
    torch.testing.assert_close(compiled.double(), exact, atol=1e-5, rtol=1e-5)


@needs_numba
@pytest.mark.parametrize(("units", "block"), [(1, 1), (7, 33), (500, 164)])
@pytest.mark.parametrize("spread", [0.0, 1e-3, 5.0, 300.0])
def test_less_marginal(units: int, block: int, spread: float) -> None:
    torch.manual_seed(0)
    joint = torch.randn(units, block) * spread - 200
    compiled, wanted = kernels.less_marginal(joint.clone(), 0.7), joint.clone()
    plain.less_marginal(wanted, 0.7)
    torch.testing.assert_close(compiled, wanted, atol=1e-4, rtol=1e-6)
    wide = joint.double()
    exact = wide - 0.7 * (wide.logsumexp(0) - math.log(units))
    torch.testing.assert_close(compiled.double(), exact, atol=1e-4, rtol=1e-6)


@needs_numba
def test_exponential() -> None:
    from clipdissect.similarity.kernels import compiled

    for x in torch.linspace(-87, 0, 1001).tolist():
        got, wanted = float(compiled._exp(np.float32(x))), math.exp(float(np.float32(x)))
        assert abs(got - wanted) < 6e-7 * wanted, x
    assert 0 <= float(compiled._exp(np.float32(-1000))) < 1e-37


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
    monkeypatch.setattr(kernels.COMPILED, "failed", False)
    monkeypatch.setattr("clipdissect.utils.jit.prepare", broken)
    x = torch.randn(9, 5)
    with caplog.at_level(logging.WARNING):
        first, second = (kernels.less_marginal(x.clone(), 1.0) for _ in range(2))
    plain.less_marginal(x, 1.0)
    assert torch.equal(first, x)
    assert torch.equal(second, first)
    assert len(caplog.records) == 1
    assert kernels.backend() == "torch"


@needs_numba
def test_errors_of_the_data_are_not_the_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come out, and the compiled loops stay in use."""

    def failing(*arguments: object) -> None:
        raise IndexError("row 9 of 3")

    monkeypatch.delenv("CLIPDISSECT_KERNELS", raising=False)
    monkeypatch.setattr(kernels.COMPILED, "failed", False)
    x = torch.randn(3, 5)
    with monkeypatch.context() as patch, pytest.raises(IndexError, match="row 9"):
        patch.setattr("clipdissect.utils.compiled_kernels.run_in_threads", failing)
        kernels.less_marginal(x, 1.0)
    assert kernels.backend() == "numba"


@needs_numba
def test_preparing_compiles_what_is_called() -> None:
    """One version a function and types, which the call then finds."""
    from clipdissect.similarity.kernels import compiled

    kernels.less_marginal(torch.randn(3, 5), 1.0)
    versions = len(compiled.less_marginal.signatures)
    kernels.less_marginal(torch.randn(7, 2), 0.5)
    assert len(compiled.less_marginal.signatures) == versions


def test_without_numba(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("CLIPDISSECT_KERNELS", raising=False)
    monkeypatch.setattr(kernels.COMPILED, "failed", False)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "clipdissect.similarity.kernels.compiled", raising=False)
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
        "x = torch.full((4, 3), 3.0); print(kernels.backend(), kernels.__file__);"
        "print((kernels.less_marginal(x, 1.0) + 1).sum().item())"
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


@pytest.mark.parametrize("k", [1, 3, 9, 10])
@pytest.mark.parametrize("levels", [1, 3, 1000])  # all tied, some, none
def test_largest_values_with_ties_by_number(k: int, levels: int) -> None:
    torch.manual_seed(0)
    values = torch.randint(-levels, levels, (20, 10)) / 4
    values[0, :2] = torch.tensor([0.0, -0.0])
    numbers = torch.arange(7, 17)
    found, indices = plain.largest(values, numbers, k)
    order = torch.argsort(-values, dim=1, stable=True)[:, :k]
    assert torch.equal(found, values.gather(1, order))
    assert torch.equal(indices, numbers[order])


@pytest.mark.parametrize("at_once", [1, 60, 10**6])  # a unit at a time, two, all
def test_plain_rank_errors_by_parts(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    columns, values = torch.rand(6, 30), torch.rand(4, 5).sort(1, descending=True).values
    index = torch.stack([torch.randperm(30)[:5] for _ in range(4)]).int()
    monkeypatch.setattr(plain, "_SORTED_AT_ONCE", at_once)
    found = plain.rank_errors(columns, index, values, 3.0)
    for unit, images in enumerate(index.tolist()):
        for concept, column in enumerate(columns):
            ranks = (-column[images]).argsort().argsort()
            wanted = (values[unit][ranks] - values[unit]).abs().pow(3).sum()
            assert found[unit, concept] == pytest.approx(float(wanted))


def test_dense_places() -> None:
    columns = torch.tensor([[0.5, -1.0, 0.5, 2.0], [0.0, -0.0, -3.0, 0.0]])
    assert plain.dense_places(columns).tolist() == [[1, 2, 1, 0], [0, 0, 1, 0]]
