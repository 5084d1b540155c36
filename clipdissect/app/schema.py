"""Typed schemas, so that a wrong key or type fails while the config is composed.

Each option's schema is made from the signature of the library function of that name: there is
one list of parameters, and the command line can't drift from it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from types import UnionType
from typing import Any, Optional, Union, cast, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from clipdissect import (
    concepts,
    encoder,
    method,
    probe,
    sentence,
    similarity,
    studies,
    targets,
    tracking,
)
from clipdissect.utils.registry import Options

GROUPS: dict[str, Options] = {
    "target": targets.OPTIONS,
    "probe": probe.OPTIONS,
    "concepts": concepts.OPTIONS,
    "encoder": encoder.OPTIONS,
    "similarity": similarity.OPTIONS,
    "sentence": sentence.OPTIONS,
    "method": method.OPTIONS,
    "study": studies.OPTIONS,
    "tracking": tracking.OPTIONS,
}

# What must be text: omegaconf converts whatever is given for a `str` ("no" in YAML comes out as
# "False", 1e3 as "1000.0"), and nothing for a union.
Text: Any = Union[str, bytes]  # noqa: UP007 - omegaconf reads it


@dataclass
class Paths:
    """Where files go; see conf/paths/default.yaml."""

    results: str = "results"
    store: Optional[str] = None  # noqa: UP045 - omegaconf reads it


@dataclass
class Capture:
    """How the networks are run; the fields of `clipdissect.capture.settings.Settings`."""

    device: str = "auto"  # or cpu, cuda, cuda:1
    precision: str = "auto"  # or fp32, bf16
    batch_size: Optional[int] = None  # noqa: UP045
    workers: Optional[int] = None  # noqa: UP045
    summary: str = "auto"  # or mean, max, cls
    layout: str = "auto"  # or channels_first, channels_last
    keep: str = "full"  # or top_k: every unit's top images only
    shard: int = 1024  # images after which an interrupted pass goes on
    compile: bool = False


@dataclass
class Evaluation:
    """How labels of a layer whose units are classes are judged; see `clipdissect.evaluation`."""

    truth: str = "auto"  # or imagenet, places365, or a file with one class name a line
    layer: Optional[str] = None  # noqa: UP045 - whose units are the classes; the target's
    # Sentence encoders beside the group `sentence`: names, or {name: clip_text, encoder: ...}.
    sentences: list[Any] = field(default_factory=lambda: ["clip_text"])
    broden: Optional[str] = None  # noqa: UP045 - the unpacked release, for Places365's accuracy
    against: list[str] = field(default_factory=list)  # folders of earlier runs to compare with
    resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 0  # of the intervals and the random labels


@dataclass
class Comparison:
    """What `experiments.similarity_comparison` compares; the paper's Table 3."""

    # Name in the tables to a probe's name or parameters; by default the paper's four.
    probes: dict[str, Any] = field(default_factory=dict)
    concepts: list[Any] = field(default_factory=lambda: ["google_20k", "imagenet"])
    similarities: list[str] = field(
        default_factory=lambda: [
            "soft_wpmi",
            "wpmi",
            "rank_reorder",
            "cosine",
            "cosine_cubed",
            "lp",
        ]
    )
    # Tried on half of the units for the functions that have one, judged on the other; [] for none.
    top_k: list[int] = field(default_factory=list)


@dataclass
class Report:
    """What a run's report shows; see `clipdissect.report.ReportSettings`."""

    enabled: bool = True
    images: int = 5  # top images a unit
    regions: int = 400  # images that the target is shown again to outline regions; 0: no regions
    thumbnail: int = 160  # pixels a side
    single_file: bool = False
    megabytes: float = 30.0  # of pictures in a single file
    paths: str = "relative"  # or absolute, which links to the images' own files
    # Labels of other methods by name: a run's folder, a CSV file, or {name: published, path: FILE}.
    against: dict[str, Any] = field(default_factory=dict)


@dataclass
class Runtime:
    """What `experiments.runtime` measures; the paper's Table 4."""

    methods: list[Any] = field(default_factory=lambda: ["clip_dissect"])  # names or {name: ...}
    baseline: bool = True  # the published pipeline, plainly, in turn with clip_dissect
    # Images a batch of it; None: capture.batch_size, or what suits a process like it.
    baseline_batch: Optional[int] = None  # noqa: UP045
    baseline_keeps_memory: bool = False  # as the command line does; see docs/capture.md
    rounds: int = 3  # cold and as many warm ones, after a warm-up
    slice: float = 1.0  # seconds of a turn
    # Pieces in turn: scoring at sizes along each axis, the others being at their base.
    repeats: int = 5  # 0: no pieces
    images: list[int] = field(default_factory=lambda: [500, 1000, 2000, 4000])
    units: list[int] = field(default_factory=lambda: [64, 128, 256, 512])
    concepts: list[int] = field(default_factory=lambda: [2500, 5000, 10_000, 20_000])
    base: dict[str, int] = field(
        default_factory=lambda: {"images": 1000, "units": 256, "concepts": 20_000}
    )
    pass_images: list[int] = field(default_factory=lambda: [32, 64, 128, 256])  # of the passes


@dataclass
class Root:
    """The config of a run: one entry a group, and what belongs to no group."""

    target: Any = MISSING
    probe: Any = MISSING
    concepts: Any = MISSING
    encoder: Any = MISSING
    similarity: Any = MISSING
    sentence: Any = MISSING
    method: Any = MISSING
    study: Any = None  # of the studies' runners, which choose it
    tracking: Any = MISSING
    paths: Paths = field(default_factory=Paths)
    profile: dict[str, Any] = field(default_factory=dict)
    capture: Capture = field(default_factory=Capture)
    evaluation: Evaluation = field(default_factory=Evaluation)
    comparison: Comparison = field(default_factory=Comparison)
    report: Report = field(default_factory=Report)
    runtime: Runtime = field(default_factory=Runtime)
    top: int = 5  # descriptions a unit
    images: int = 10  # top images a unit
    null_similarity: bool = True  # also score with shuffled images; see docs/similarity.md
    show: int = 5  # units a layer in the printed table; 0 prints none
    objective: Optional[str] = None  # noqa: UP045 - what a search maximises; see clipdissect.tuning
    objective_seed: int = 0  # of the split of the units in a tuning and a report half


def schema_of(function: Callable[..., Any]) -> type:
    """A dataclass with `name` and the function's parameters, their types and defaults."""
    source: Any = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(source)
    about: list[Any] = [("name", Text, MISSING)]
    for parameter in inspect.signature(function).parameters.values():
        default = MISSING if parameter.default is inspect.Parameter.empty else parameter.default
        about.append((parameter.name, strict(hints[parameter.name]), default))
    return make_dataclass(f"{function.__name__}_schema", about)


def strict(hint: Any) -> Any:
    """The type that omegaconf checks for a parameter's hint: text is not made from other types."""
    if hint is str:
        return Text
    if is_dataclass(hint):
        return _strict_dataclass(hint)
    if get_origin(hint) is dict:  # omegaconf checks keys by itself
        return dict[get_args(hint)[0], strict(get_args(hint)[1])]  # type: ignore[misc]
    inner = tuple(strict(argument) for argument in get_args(hint))
    if inner == get_args(hint):
        return hint
    if get_origin(hint) in (Union, UnionType):
        return Union[inner]  # noqa: UP007 - the same
    return get_origin(hint)[inner]


def _strict_dataclass(kind: Any) -> type:
    hints = {name: strict(hint) for name, hint in get_type_hints(kind).items()}
    about: list[Any] = []
    for part in fields(kind):
        hint, default = hints[part.name], part.default
        if is_dataclass(hint):
            default = field(default_factory=cast(type, hint))
        elif default is NO_DEFAULT:
            default = field(default_factory=part.default_factory)
        about.append((part.name, hint, default))
    return make_dataclass(kind.__name__, about)


@cache
def register() -> None:
    """Put the root's and every option's schema into Hydra's store, and what `conf/` calls."""
    OmegaConf.register_new_resolver("expand", os.path.expanduser, replace=True)  # of `~`
    store = ConfigStore.instance()
    store.store(name="schema", node=strict(Root))
    for group, group_options in GROUPS.items():
        for name, function in group_options.items():
            store.store(group=f"schema/{group}", name=name, node=schema_of(function))
