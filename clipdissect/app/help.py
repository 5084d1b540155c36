"""Help texts, made from `conf/` and the runners' docstrings without importing anything heavy."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

# With options as Hydra takes them.
RUNNERS = (
    "dissect",
    "final_layer",
    "similarity_comparison",
    "missing_concepts",
    "weight_similarity",
    "compositional_concepts",
    "class_from_descriptions",
    "qualitative",
    "runtime",
)
# Commands that aren't experiments: plain ones with flags, and `layers`, with options as Hydra's.
COMMANDS = (
    "check_published",
    "compare",
    "concepts",
    "fetch",
    "layers",
    "report",
    "show",
    "store",
    "tables",
)  # fmt: skip

# Folders of `conf/` that are no config groups: `wandb` is for `wandb sweep`.
NO_GROUPS = ("wandb",)

USAGE = """usage: clipdissect <runner> [option=value ...]
       clipdissect <command> [--help]

Label the hidden neurons of a vision network with free text (CLIP-Dissect).

runners:
{runners}

commands (`clipdissect <command> --help`):
{commands}

`clipdissect <runner> --help` lists the options. A first try that needs no hub and no data:
  clipdissect dissect profile=offline
"""

RUNNER_USAGE = """usage: clipdissect {name} [option=value ...]

{docstring}

choices (group=option; the defaults are the paper's, profile=offline needs no hub):
{groups}

Every option's parameters are in its file below {conf}
and are set with group.parameter=value, such as similarity.top_k=50 or target.layers=[layer4].
  --cfg job --resolve   show the whole config and stop
  -m a=1,2              run every combination (multirun)
  --hydra-help          Hydra's own flags
"""


def packaged(name: str) -> Path:
    """Return `conf` or `experiments`: in this package once installed, else in the source tree."""
    here = Path(__file__).parent
    return (here if (here / "conf").is_dir() else here.parents[1]) / name


def conf_folder() -> Path:
    """Return the folder of the configs."""
    return packaged("conf")


def group_folders() -> list[Path]:
    """The folders of the config groups."""
    return [p for p in sorted(conf_folder().iterdir()) if p.is_dir() and p.name not in NO_GROUPS]


def usage() -> str:
    """Help of the console script."""
    return USAGE.format(runners=_summaries(RUNNERS), commands=_summaries(COMMANDS))


def _summaries(names: Sequence[str]) -> str:
    width = max(map(len, (*RUNNERS, *COMMANDS)))
    return "\n".join(f"  {name:<{width}}  {docstring(name).splitlines()[0]}" for name in names)


def runner_help(name: str) -> str:
    """Help of one runner."""
    conf = conf_folder()
    groups = group_folders()
    width = max(len(group.name) for group in groups)
    lines = [
        f"  {group.name:<{width}}  {', '.join(sorted(f.stem for f in group.glob('*.yaml')))}"
        for group in groups
    ]
    return RUNNER_USAGE.format(
        name=name, docstring=docstring(name), groups="\n".join(lines), conf=conf
    )


def docstring(name: str) -> str:
    """A runner's or command's module docstring, read without importing it."""
    folder = packaged("experiments") if name in RUNNERS else Path(__file__).parent / "commands"
    source = (folder / f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or name
