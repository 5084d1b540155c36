"""The Triton kernels against the plain loops: on a GPU, elsewhere in Triton's interpreter."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from clipdissect import similarity
from clipdissect.similarity import ConceptActivations, kernels
from clipdissect.similarity.kernels import plain
from clipdissect.utils.compiled_kernels import GpuKernels

triton = pytest.importorskip("triton", reason="Triton isn't installed")

from clipdissect.similarity.kernels import fused  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random(*shape: int) -> Tensor:
    return torch.rand(*shape, device=DEVICE)


@pytest.mark.parametrize(("rows_of_base", "rows_of_weight"), [(1, 1), (6, 6), (1, 6), (6, 1)])
@pytest.mark.parametrize(("k", "group", "block"), [(1, 1, 1), (7, 3, 33), (25, 12, 300)])
def test_log_product_sums(
    rows_of_base: int, rows_of_weight: int, k: int, group: int, block: int
) -> None:
    torch.manual_seed(0)
    x, scale = random(40, block) * 20, random(40) / 20
    index = torch.randint(0, 40, (6, k), dtype=torch.int32, device=DEVICE)
    base, weight = random(rows_of_base, k) * 0.5 + 0.05, random(rows_of_weight, k) * 0.9
    out = torch.full((6, block), torch.nan, device=DEVICE)
    fused.log_product_sums(x, index, scale, base, weight, group, out)
    wanted = plain.log_product_sums(x, index, scale, base, weight, group)
    torch.testing.assert_close(out, wanted)


@pytest.mark.parametrize("block", [1, 5, 1024, 2100])
@pytest.mark.parametrize("is_shifted", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_exponentials(block: int, is_shifted: bool, in_place: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(9, block, device=DEVICE)
    shift = x.amax(1) * 2 if is_shifted else None
    out, wanted = x.clone(), torch.empty_like(x)
    sums = torch.ones(9, dtype=torch.float64, device=DEVICE)
    wanted_sums = sums.clone()
    fused.exponentials(out if in_place else x.clone(), 2.0, shift, out, sums)
    plain.exponentials(x.clone(), 2.0, shift, wanted, wanted_sums)
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(sums, wanted_sums, rtol=1e-6, atol=0)
    fused.exponentials(x, 2.0, shift, out, None)
    torch.testing.assert_close(out, wanted)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 2.5])
@pytest.mark.parametrize("levels", [2, 10**6])  # tied, and not
@pytest.mark.parametrize("is_wide", [False, True])
def test_rank_errors(p: float, levels: int, is_wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with negative, zero and tied values, with keys of 32 and 64 bits."""
    torch.manual_seed(0)
    columns = (torch.randn(3, 30, device=DEVICE) * levels).round() / levels
    columns[0] = torch.where(columns[0] > 0, 0.0, -0.0)
    index = torch.stack([torch.randperm(30)[:11] for _ in range(2)]).int().to(DEVICE)
    values = random(2, 11).sort(dim=1, descending=True).values
    out = torch.full((2, 3), torch.nan, device=DEVICE)
    if is_wide:
        monkeypatch.setattr(fused, "_LARGEST_INT32", 1)
    fused.rank_errors(columns, index, values, p, out)
    torch.testing.assert_close(out, plain.rank_errors(columns, index, values, p))


def test_long_units_are_sorted_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_MAX_SORTED", 3)
    monkeypatch.setattr(fused, "_rank_errors", None)
    columns, values = random(4, 9), random(2, 5).sort(dim=1, descending=True).values
    index, out = torch.tensor([[0, 1, 2, 3, 4], [8, 7, 6, 5, 4]], device=DEVICE), random(2, 4)
    fused.rank_errors(columns, index, values, 3.0, out)
    assert torch.equal(out, plain.rank_errors(columns, index, values, 3.0))


class Always:
    """Run the Triton kernels wherever the tensors are."""

    def __init__(self) -> None:
        self.ran: set[str] = set()

    def run(self, name: str, arguments: Sequence[Any]) -> bool:
        getattr(fused, name)(*arguments)
        self.ran.add(name)
        return True


@pytest.mark.parametrize(
    ("name", "parameters", "wanted_kernels"),
    [
        ("soft_wpmi", {"top_k": 8}, {"exponentials", "log_product_sums"}),
        ("soft_wpmi", {"top_k": 8, "a": 200.0}, {"exponentials", "log_product_sums"}),
        ("soft_wpmi", {"top_k": 8, "membership": "sigmoid"}, {"exponentials", "log_product_sums"}),
        ("wpmi", {"top_k": 8}, {"exponentials", "log_product_sums"}),
        ("wpmi", {"top_k": 8, "eps": 0}, {"exponentials"}),
        ("rank_reorder", {"top_fraction": 0.2}, {"rank_errors"}),
    ],
)
@pytest.mark.parametrize("memory_gb", [None, 2e-5])  # one block, and several recomputed ones
def test_functions_with_fused_kernels(
    name: str,
    parameters: dict[str, Any],
    wanted_kernels: set[str],
    memory_gb: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    images, texts, q = torch.randn(40, 8) / 8, torch.randn(14, 8) / 8, torch.randn(40, 3)
    factors = ConceptActivations(images, texts)
    function = similarity.build(name, **parameters, memory_gb=memory_gb)
    wanted = function.top(factors, q, 14)
    monkeypatch.setattr(kernels, "FUSED", always := Always())
    found = function.top(factors.to(DEVICE), q.to(DEVICE), 14)
    assert always.ran == wanted_kernels
    assert torch.equal(found.concepts[:, 0].cpu(), wanted.concepts[:, 0])
    spread = torch.empty(3, 14).scatter_(1, found.concepts.cpu(), found.scores.cpu())
    of_cpu = torch.empty(3, 14).scatter_(1, wanted.concepts, wanted.scores)
    torch.testing.assert_close(spread, of_cpu, atol=5e-4, rtol=1e-5)


def test_tensors_of_the_cpu_are_left_to_other_kernels() -> None:
    assert not kernels.FUSED.run("exponentials", (torch.ones(1, 1), 1.0, None, None, None))


def test_failing_compiler_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class OnGpu(Tensor):
        device = torch.device("cuda", 0)

    def broken(*arguments: object) -> None:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    monkeypatch.setattr(fused, "exponentials", broken)
    gpu, x = GpuKernels(fused.__name__, "torch"), OnGpu()
    with caplog.at_level(logging.WARNING):
        assert not gpu.run("exponentials", (x, 1.0))
        assert not gpu.run("exponentials", (x, 1.0))
    assert [record.getMessage() for record in caplog.records] == [
        "the compiled kernels don't work here, using plain torch: no C compiler"
    ]


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from clipdissect.similarity.kernels import fused

def check(kernel, types, warps=4, **constants):
    types |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature=types, constexprs=constants)
    built = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    print(kernel.__name__, len(built.asm["cubin"]))

f, i = "*fp32", "*i32"
rows = dict(x=f, out=f, shift=f, sums="*fp64", a="fp32", block="i32")
check(fused._exponentials, rows, SHIFTED=True, LANES=1024)
sums = dict(x=f, index=i, scale=f, base=f, weight=f, out=f)
sums |= dict.fromkeys(("block", "k", "base_stride", "weight_stride"), "i32")
check(fused._log_product_sums, sums, GROUP=12, LANES=256)
ranks = dict(places=i, index=i, values=f, out=f, images="i32", block="i32", k="i32", p="fp32")
check(fused._rank_errors, ranks, warps=2, P=0, WIDE=True, KEYS=256)
"""


def test_kernels_compile_for_a_gpu() -> None:
    """For compute capability 9.0, whatever GPU there is: the interpreter accepts more."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "_exponentials",
        "_log_product_sums",
        "_rank_errors",
    ]
