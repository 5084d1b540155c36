"""Typed schemas: a wrong key or type fails while the config is composed.

Each option's schema comes from the signature of the library function of that name, by way of
`schema.json`, which `scripts/schema` writes: importing the library takes seconds, and a mistake in
a command is answered without it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from types import UnionType
from typing import Any, Optional, Union, cast, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from clipdissect.app.help import SCHEMA

# Group to option to parameter to its `type` and, if it has one, its `default`.
Parameters = Mapping[str, Mapping[str, Any]]
OPTIONS: dict[str, dict[str, Parameters]] = json.loads(SCHEMA.read_text(encoding="utf-8"))

# For `str`, omegaconf converts whatever is given ("no" in YAML becomes "False", 1e3 "1000.0");
# for a union it converts nothing.
Text: Any = Union[str, bytes]  # noqa: UP007 - omegaconf reads it


@dataclass
class Paths:
    """Folders; see conf/paths/default.yaml."""

    results: str = "results"
    store: Optional[str] = None  # noqa: UP045 - omegaconf reads it


@dataclass
class Capture:
    """Settings of the networks; see `clipdissect.capture.settings.Settings`."""

    device: str = "auto"  # or cpu, cuda, cuda:1
    precision: str = "auto"  # or fp32, bf16, bf16_weights
    batch_size: Optional[int] = None  # noqa: UP045
    workers: Optional[int] = None  # noqa: UP045
    summary: str = "auto"  # or mean, max, cls; count of latents
    layout: str = "auto"  # or channels_first, channels_last
    keep: str = "auto"  # or full, top_k: only the top images per unit, as auto does of latents
    shard: Optional[int] = None  # noqa: UP045 - images; a killed pass resumes at the last one
    compile: bool = False


@dataclass
class Evaluation:
    """The evaluation of labels of class units; see `clipdissect.evaluation`."""

    truth: str = "auto"  # or imagenet, places365, or a file with one class name per line
    layer: Optional[str] = None  # noqa: UP045 - whose units are the classes; the target's
    # In addition to the group `sentence`: names, or {name: clip_text, encoder: ...}.
    sentences: list[Any] = field(default_factory=lambda: ["clip_text"])
    broden: Optional[str] = None  # noqa: UP045 - the unpacked release, for Places365's accuracy
    against: list[str] = field(default_factory=list)  # folders of earlier runs to compare with
    resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 0  # of the intervals and the random labels


@dataclass
class Comparison:
    """The grid of `experiments.similarity_comparison` (Table 3)."""

    # Name in the tables to a probe's name or parameters; default: the paper's four.
    probes: dict[str, Any] = field(default_factory=dict)
    concepts: list[Any] = field(default_factory=lambda: ["google_20k", "imagenet"])
    similarities: list[str] = field(default_factory=lambda: list(OPTIONS["similarity"]))
    # Values to choose from on half of the units, evaluated on the other half; []: no search.
    top_k: list[int] = field(default_factory=list)


@dataclass
class Scorer:
    """How `score` scores labels; see docs/scores.md."""

    # An encoder's name, or {name: ..., parameter: ...}: not the one that made the labels.
    encoder: Any = None
    same_encoder: bool = False  # allow the encoder that made the labels
    labels: str = "auto"  # or anew (made again from the split's first part), given (as they are)
    split: Optional[str] = None  # noqa: UP045 - split.csv of an earlier run, to use its images
    shares: list[float] = field(default_factory=lambda: [0.7, 0.1, 0.2])
    seed: int = 0  # of the split and of control labels
    draws: int = 5  # of random and of shuffled labels, per unit
    # Share of images on which a unit counts as active, for label metrics; by default 0.005, and at
    # least 10 images.
    alpha: Optional[float] = None  # noqa: UP045


@dataclass
class Report:
    """The contents of a run's report; see `clipdissect.report.ReportSettings`."""

    enabled: bool = True
    images: int = 5  # top images per unit
    regions: int = 400  # images on which to outline active regions; 0: none
    thumbnail: int = 160  # pixels per side
    single_file: bool = False
    megabytes: float = 30.0  # of pictures in a single file
    paths: str = "relative"  # or absolute, which links to the image files
    search: bool = True  # by meaning: writes a table of 3.5 MB for 20,000 concepts
    # Labels of other methods by name: a run's folder, a CSV file, or {name: published, path: FILE}.
    against: dict[str, Any] = field(default_factory=dict)


@dataclass
class Runtime:
    """The measurements of `experiments.runtime` (Table 4)."""

    methods: list[Any] = field(default_factory=lambda: ["clip_dissect"])  # names or {name: ...}
    baseline: bool = True  # also time the published pipeline
    # None: capture.batch_size, or the default for a process without memory reuse.
    baseline_batch: Optional[int] = None  # noqa: UP045
    baseline_keeps_memory: bool = False  # as the command line does; see docs/capture.md
    rounds: int = 3  # cold ones and as many warm ones, after a warm-up
    slice: float = 1.0  # seconds per turn of time slicing
    # Microbenchmarks of scoring: sizes along each axis, the other axes at their base.
    repeats: int = 5  # 0: no microbenchmarks
    images: list[int] = field(default_factory=lambda: [500, 1000, 2000, 4000])
    units: list[int] = field(default_factory=lambda: [64, 128, 256, 512])
    concepts: list[int] = field(default_factory=lambda: [2500, 5000, 10_000, 20_000])
    base: dict[str, int] = field(
        default_factory=lambda: {"images": 1000, "units": 256, "concepts": 20_000}
    )
    pass_images: list[int] = field(default_factory=lambda: [32, 64, 128, 256])  # per pass


@dataclass
class Checks:
    """The sanity checks of `experiments.metric_checks`; see `clipdissect.scores.checks`."""

    metrics: list[str] = field(default_factory=list)  # default: all, and all similarity functions
    # Ideal units: their frequencies, the number of images, and of random draws of labels.
    gammas: list[float] = field(default_factory=lambda: [0.499, 0.1, 0.01, 0.001, 0.0001])
    images: int = 500_000
    seeds: int = 100
    # Shares of active images to choose from on 5 % of a layer's units; default: 0.0001 to 0.5.
    alphas: list[float] = field(default_factory=list)
    min_area: float = 0.0  # share of an image that a mask must cover for its concept to be present
    seed: int = 0  # of the split of units, and of the labels that are removed and added


@dataclass
class Leaderboard:
    """The methods of `experiments.leaderboard`."""

    # Name to options of dissect; the first is what the others are compared with.
    entries: dict[str, Any] = field(default_factory=dict)


@dataclass
class Root:
    target: Any = MISSING
    probe: Any = MISSING
    concepts: Any = MISSING
    encoder: Any = MISSING
    similarity: Any = MISSING
    sentence: Any = MISSING
    method: Any = MISSING
    sae: Any = MISSING
    text_images: Any = MISSING
    study: Any = None  # set by the runner of a study
    tracking: Any = MISSING
    paths: Paths = field(default_factory=Paths)
    profile: dict[str, Any] = field(default_factory=dict)
    capture: Capture = field(default_factory=Capture)
    evaluation: Evaluation = field(default_factory=Evaluation)
    comparison: Comparison = field(default_factory=Comparison)
    report: Report = field(default_factory=Report)
    checks: Checks = field(default_factory=Checks)
    leaderboard: Leaderboard = field(default_factory=Leaderboard)
    runtime: Runtime = field(default_factory=Runtime)
    # The labels to score: a run's folder, a file, or {name: published, path: FILE, ...}.
    run: Any = None
    against: list[Any] = field(default_factory=list)  # other labels of the same units, likewise
    scores: list[str] = field(default_factory=list)  # []: all that the inputs allow
    scorer: Scorer = field(default_factory=Scorer)
    top: int = 5  # descriptions per unit
    images: int = 10  # top images per unit
    null_similarity: bool = True  # also score with shuffled images; see docs/similarity.md
    show: int = 5  # units per layer in the printed table; 0: no table
    objective: Optional[str] = None  # noqa: UP045 - maximised by a search
    objective_seed: int = 0  # of the split of units into a tuning and a report half


PLAIN: dict[str, Any] = {"text": Text, "int": int, "float": float, "bool": bool, "any": Any}


def schema_of(name: str, parameters: Parameters) -> type:
    """Return a dataclass with `name` and an option's parameters, types and defaults."""
    specs: list[Any] = [("name", Text, MISSING)]
    for parameter, about in parameters.items():
        specs.append((parameter, _type(about["type"]), about.get("default", MISSING)))
    return make_dataclass(f"{name}_schema", specs)


def _type(described: Any) -> Any:
    """Return the type for omegaconf to check: `PLAIN`'s, or `{"list": of}` and the like."""
    if isinstance(described, str):
        return PLAIN[described]
    ((kind, inner),) = described.items()
    generic: Any = {"list": list, "dict": dict, "optional": Optional}[kind]
    return generic[str, _type(inner)] if kind == "dict" else generic[_type(inner)]


def strict(hint: Any) -> Any:
    """Return the type for omegaconf to check: `Text` for `str`, also within other types."""
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
    specs: list[Any] = []
    for part in fields(kind):
        hint, default = hints[part.name], part.default
        if is_dataclass(hint):
            default = field(default_factory=cast(type, hint))
        elif default is NO_DEFAULT:
            default = field(default_factory=part.default_factory)
        specs.append((part.name, hint, default))
    return make_dataclass(kind.__name__, specs)


@cache
def register() -> None:
    OmegaConf.register_new_resolver("expand", os.path.expanduser, replace=True)  # of `~`
    store = ConfigStore.instance()
    store.store(name="schema", node=strict(Root))
    for group, options in OPTIONS.items():
        for name, parameters in options.items():
            store.store(group=f"schema/{group}", name=name, node=schema_of(name, parameters))
