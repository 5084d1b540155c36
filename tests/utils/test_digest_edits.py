"""Edit and rerun: whatever of the user's own code a network runs is part of its key."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from clipdissect.utils import hashing, source_files

FILES = {
    "app/__init__.py": "",
    "app/net.py": """
import torch
from torch import nn

from app import numbers
from app.bases import Base
from .mixins import Scaled
from app.helpers import shift

GAIN = 2.0
TABLE = {"bias": 1.0}


def twice(x):
    return x * GAIN


class Net(Base, Scaled):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        import app.late
        return app.late.end(self.scaled(shift(twice(self.fc(x))) + TABLE["bias"]) * numbers.LAST)
""",
    "app/bases.py": "from torch import nn\n\n\nclass Base(nn.Module):\n    FACTOR = 3.0\n",
    "app/mixins.py": "class Scaled:\n    def scaled(self, x):\n        return x * self.FACTOR\n",
    "app/helpers.py": """
from app.deeper.amounts import AMOUNT


def shift(x):
    return x + AMOUNT
""",
    "app/deeper/__init__.py": "",
    "app/deeper/amounts.py": "AMOUNT = 4.0\n",
    "app/numbers.py": "LAST = 5.0\n",
    "app/late.py": "def end(x):\n    return x - 6.0\n",
    "other.py": "UNRELATED = 7.0\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder with a network in a package."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # else a quick edit isn't noticed
    yield tmp_path
    forget()


def forget() -> None:
    for name in [n for n in sys.modules if n.split(".")[0] in ("app", "other")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def key() -> str:
    """The network's key in a program that starts now."""
    forget()
    return hashing.hash_model(importlib.import_module("app.net").Net())


def edit(project: Path, name: str, old: str, new: str) -> None:
    path = project / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("app/bases.py", "3.0", "3.5"),
        ("app/mixins.py", "x * self", "x + self"),
        ("app/net.py", "x * GAIN", "x + GAIN"),
        ("app/net.py", "GAIN = 2.0", "GAIN = 2.5"),
        ("app/net.py", '"bias": 1.0', '"bias": 1.5'),
        ("app/helpers.py", "x + AM", "x - AM"),
        ("app/deeper/amounts.py", "4.0", "4.5"),
        ("app/numbers.py", "5.0", "5.5"),
        ("app/late.py", "6.0", "6.5"),
        ("app/__init__.py", "", "import other\n"),
    ],
)
def test_an_edit_anywhere_that_the_network_reaches_is_noticed(
    project: Path, name: str, old: str, new: str
) -> None:
    before = key()
    assert key() == before
    edit(project, name, old, new) if old else (project / name).write_text(new, encoding="utf-8")
    assert key() != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("other.py", "7.0", "8.0"), ("app/net.py", "GAIN = 2.0", "# louder\nGAIN = (2.0)")],
)
def test_unrelated_files_comments_and_layout_change_nothing(
    project: Path, name: str, old: str, new: str
) -> None:
    before = key()
    edit(project, name, old, new)
    assert key() == before


def test_a_folder_elsewhere_with_the_same_files_has_the_same_key(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key()
    moved = project.rename(tmp_path_factory.mktemp("elsewhere") / "project")
    monkeypatch.syspath_prepend(str(moved))
    assert key() == before


def test_an_edit_counts_when_it_is_loaded(project: Path) -> None:
    net = importlib.import_module("app.net")
    before = hashing.hash_model(net.Net())
    edit(project, "app/net.py", '"bias": 1.0', '"bias": 1.5')
    assert hashing.hash_model(net.Net()) == before  # the program still computes what it did
    importlib.reload(net)
    after = hashing.hash_model(net.Net())
    assert after != before
    assert key() == after


def typed(source: str) -> ModuleType:
    """What a notebook's cells define: a `__main__` without a file."""
    module = ModuleType("__main__")
    exec(compile(source, "<ipython-input-1>", "exec"), module.__dict__)
    return module


CELL = """
import torch
import app.numbers as numbers
from torch import nn

GAIN = 2.0
TABLE = {"bias": 1.0}
WEIGHT = torch.ones(3)

def twice(x):
    return x * GAIN + TABLE["bias"]

def decorated(function):
    return lambda *given: function(*given) * 9.0

class Mixin:
    def scaled(self, x):
        return twice(x) * WEIGHT

class Net(nn.Module, Mixin):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3, 3)

    @decorated
    def forward(self, x):
        return self.scaled(self.fc(x)) + numbers.LAST
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("GAIN = 2.0", "GAIN = 2.5"),
        ('"bias": 1.0', '"bias": 1.5'),
        ("ones(3)", "zeros(3)"),
        ("x * GAIN", "x + GAIN"),
        ("twice(x) * WEIGHT", "twice(x) + WEIGHT"),
        ("* 9.0", "* 9.5"),
    ],
)
def test_an_edit_in_a_notebook_is_noticed(project: Path, old: str, new: str) -> None:
    def own(source: str) -> str:
        return hashing.hash_model(typed(source).Net())

    before = own(CELL)
    assert own(CELL + "\nUNUSED = 1\n") == before
    assert own(CELL.replace(old, new)) != before
    edit(project, "app/numbers.py", "5.0", "5.5")
    forget()
    assert own(CELL) != before


def test_of_a_script_what_the_network_uses_counts(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = project / "run.py"

    def ran(source: str) -> str:
        forget()
        script.write_text(source, encoding="utf-8")
        module = ModuleType("__main__")
        module.__file__ = str(script)
        monkeypatch.setitem(sys.modules, "__main__", module)
        exec(compile(source, str(script), "exec"), module.__dict__)
        return hashing.hash_model(module.Net())

    cell = CELL.replace("twice(x) *", "shift(twice(x)) *")
    source = f"from app.helpers import shift\n{cell}\nif False:\n    dissect(top_k=5)\n"
    before = ran(source)
    assert ran(source.replace("top_k=5", "top_k=9") + "print\n") == before
    for old, new in (("GAIN = 2.0", "GAIN = 2.5"), ("x * GAIN", "x + GAIN"), ("ones", "zeros")):
        assert ran(source.replace(old, new)) != before
    edit(project, "app/deeper/amounts.py", "4.0", "4.5")  # three imports away
    assert ran(source) != before


def test_what_a_program_changes_in_a_module_is_noticed(project: Path) -> None:
    before = key()
    importlib.import_module("app.numbers").LAST = 8.0
    assert hashing.hash_model(importlib.import_module("app.net").Net()) != before


def test_code_of_hooks_is_part_of_the_key(project: Path) -> None:
    (project / "app" / "hooks.py").write_text(
        "from app.numbers import LAST\n\n\ndef hook(module, inputs, output):\n    return output\n",
        encoding="utf-8",
    )

    def hooked() -> str:
        forget()
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3))
        model[0].register_forward_hook(importlib.import_module("app.hooks").hook)
        return hashing.hash_model(model)

    before = hooked()
    edit(project, "app/numbers.py", "5.0", "5.5")
    assert hooked() != before


def test_installed_libraries_and_this_one_are_no_files_of_the_user() -> None:
    import clipdissect.targets.wrappers as ours

    for place in (torch, nn.functional, importlib, ours, "<string>", "/no/such/file.py"):
        assert source_files.file_of(place) is None
    assert source_files.file_of(sys.modules[__name__]) == str(Path(__file__).resolve())


def test_networks_of_libraries_read_no_source_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def refuse(*_: Any) -> Any:
        raise AssertionError("a file was read")

    monkeypatch.setattr(source_files, "_of_file", refuse)
    model: Callable[..., nn.Module] = torchvision.models.squeezenet1_1
    hashing.hash_model(model())
