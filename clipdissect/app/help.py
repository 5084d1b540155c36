"""Help texts from `conf/` and the runners' docstrings; imports nothing heavy."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

# Experiments, with options as Hydra's.
RUNNERS = (
    "dissect",
    "final_layer",
    "similarity_comparison",
    "missing_concepts",
    "weight_similarity",
    "compositional_concepts",
    "class_from_descriptions",
    "qualitative",
    "score",
    "leaderboard",
    "runtime",
    "metric_checks",
)
# Other commands, with flags; `layers` has options as Hydra's.
COMMAND_FOLDER = Path(__file__).parent / "commands"
COMMANDS = tuple(sorted(path.stem for path in COMMAND_FOLDER.glob("[!_]*.py")))

SCHEMA = Path(__file__).with_name("schema.json")  # of the config; see `schema`

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
    """Return `conf` or `experiments`: installed in this package, or in the source tree."""
    app = Path(__file__).parent
    return (app if (app / "conf").is_dir() else app.parents[1]) / name


def conf_folder() -> Path:
    return packaged("conf")


def group_folders() -> list[Path]:
    return [p for p in sorted(conf_folder().iterdir()) if p.is_dir() and p.name not in NO_GROUPS]


def usage() -> str:
    return USAGE.format(runners=_summaries(RUNNERS), commands=_summaries(COMMANDS))


def _summaries(names: Sequence[str]) -> str:
    width = max(map(len, (*RUNNERS, *COMMANDS)))
    return "\n".join(f"  {name:<{width}}  {docstring(name).splitlines()[0]}" for name in names)


def runner_help(name: str) -> str:
    groups = group_folders()
    width = max(len(group.name) for group in groups)
    lines = [
        f"  {group.name:<{width}}  {', '.join(sorted(file.stem for file in group.glob('*.yaml')))}"
        for group in groups
    ]
    return RUNNER_USAGE.format(
        name=name, docstring=docstring(name), groups="\n".join(lines), conf=conf_folder()
    )


def docstring(name: str) -> str:
    """Return the docstring of an experiment or command without importing it."""
    folder = packaged("experiments") if name in RUNNERS else COMMAND_FOLDER
    source = (folder / f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or name
