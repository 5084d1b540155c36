"""Imports point down only: a package imports those before it in `ORDER` and never those after."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

# From bottom to top; `app` alone imports Hydra, and `experiments/` is above it.
ORDER = """
    errors _version utils images models datasets fetch store similarity probe text_images concepts
    sae targets encoder sentence capture masks testing results dissection method evaluation scores
    studies tracking report explore api app
""".split()  # noqa: SIM905
LIBRARY = ROOT / "clipdissect"


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(package: str) -> list[Path]:
    return [*LIBRARY.glob(f"{package}.py"), *LIBRARY.glob(f"{package}/**/*.py")]


def test_every_package_has_its_place() -> None:
    places = {path.name.removesuffix(".py") for path in LIBRARY.iterdir() if path.name[:2] != "__"}
    assert places - {"py.typed"} == set(ORDER)


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_down(package: str) -> None:
    for file in files_of(package):
        for module in imported(file):
            top, _, rest = module.partition(".")
            assert top != "experiments", file
            assert package == "app" or top not in ("hydra", "omegaconf"), file
            other = rest.partition(".")[0]
            if top == "clipdissect" and other in ORDER:
                assert ORDER.index(other) <= ORDER.index(package), (file, module)
