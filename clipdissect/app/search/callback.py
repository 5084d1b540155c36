"""A hyperparameter search by Optuna: checked before it starts, summed up when it ends.

The sweeper's settings are in conf/experiment/tune_*.yaml.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf, flag_override

from clipdissect.app.help import RUNNERS
from clipdissect.app.search.default import try_default
from clipdissect.errors import DissectError

# What a trial's value depends on, besides what is searched.
SETTING = ("target", "probe", "concepts", "encoder", "similarity", "sentence", "objective",
           "objective_seed", "capture.summary", "capture.layout", "capture.precision")  # fmt: skip
SEARCHED = "dissect"  # the runner that returns an objective
SQLITE = "sqlite:///"


class Search(Callback):
    """Watches over a multirun of the Optuna sweeper; does nothing in others."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """See that the search makes sense and belongs to its study; ends the program if not."""
        if not _is_search(config):
            return
        try:
            prepare(config)
        except DissectError as error:
            # Hydra turns a callback's errors into warnings; this one passes.
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Write trials.csv, search.json and search.png, and print the best trial."""
        if _is_search(config):
            from clipdissect.app.search.report import report

            report(study_of(config), Path(config.hydra.sweep.dir))


def prepare(config: Any) -> None:
    """Make or open the study, and note this multirun's folder in it.

    Args:
        config: of the multirun, with `hydra`.

    Raises:
        DissectError: nothing to search for or by, or the study is of another setting.
    """
    sweeper = config.hydra.sweeper
    if config.hydra.job.name in RUNNERS and config.hydra.job.name != SEARCHED:
        raise DissectError(
            f"{config.hydra.job.name} has no objective to search by: use clipdissect {SEARCHED}"
        )
    if not config.objective:
        raise DissectError(
            "a search needs an objective: set objective=top1 or objective=<sentence encoder>_cos"
        )
    space, fixed = space_of(config)
    if not space:
        raise DissectError(
            "a search needs parameters: such as experiment=tune_soft_wpmi, or "
            "'similarity.a=interval(1.0, 20.0)'"
        )
    if not isinstance(sweeper.storage, str) or not sweeper.study_name:
        raise DissectError(
            "a search needs hydra.sweeper.storage=sqlite:///<path> and "
            "hydra.sweeper.study_name=<name>; experiment=tune_soft_wpmi sets both"
        )
    if _direction(sweeper) != "maximize":
        raise DissectError(
            "objectives are the better the larger: a search needs hydra.sweeper.direction=maximize"
        )
    if sweeper.storage.startswith(SQLITE):
        Path(sweeper.storage.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    study = study_of(config)
    _claim(study, setting_of(config, set(space)))
    folders = study.user_attrs.get("folders", [])
    study.set_user_attr("folders", [*folders, str(Path(config.hydra.sweep.dir).absolute())])
    if study.trials:
        print(f"study {study.study_name} has {len(study.trials)} trials: going on with it")
        _draw_anew(config, len(study.trials))
    try_default(config, study, space, fixed)


def study_of(config: Any) -> Any:
    """The Optuna study that the sweeper uses; made where it isn't there."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sweeper = config.hydra.sweeper
    return optuna.create_study(
        study_name=sweeper.study_name, storage=sweeper.storage, direction=_direction(sweeper),
        load_if_exists=True,
    )  # fmt: skip


def space_of(config: Any) -> tuple[dict[str, Any], list[str]]:
    """Searched parameter to Optuna's distribution, and the overrides that aren't searched.

    Of the sweeper's space and of the command line's sweeps. What the command line sets to one value
    isn't searched, whatever the space says.
    """
    from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

    params = config.hydra.sweeper.params or {}
    listed = [f"{key}={value}" for key, value in params.items()]
    given: Any = OmegaConf.to_container(config.hydra.overrides.task)
    space, fixed = create_params_from_overrides([*listed, *given])
    parsed = OverridesParser.create().parse_overrides(given)
    single = [text for text, one in zip(given, parsed, strict=True) if not one.is_sweep_override()]
    return {key: one for key, one in space.items() if key not in fixed}, single


def setting_of(config: Any, searched: set[str]) -> dict[str, str]:
    """Key to value, as text, of all that a trial's value depends on and that isn't searched."""
    found: dict[str, str] = {}
    for group in SETTING:
        node = OmegaConf.select(config, group)
        plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        found |= dict(_flat(group, plain))
    return {
        key: value for key, value in found.items()
        if not any(key == name or key.startswith(f"{name}.") for name in searched)
    }  # fmt: skip


def _claim(study: Any, setting: dict[str, str]) -> None:
    """Write the setting into a new study; of an old one see that it is the same."""
    kept = {
        key.removeprefix("setting "): value
        for key, value in study.user_attrs.items()
        if key.startswith("setting ")
    }
    if not kept:
        for key, value in setting.items():
            study.set_user_attr(f"setting {key}", value)
        return
    differing = [
        f"{key} is {setting.get(key, 'searched')}, was {kept.get(key, 'searched')}"
        for key in sorted(kept | setting)
        if kept.get(key) != setting.get(key)
    ]
    if differing:
        raise DissectError(
            f"study {study.study_name} is of another setting ({'; '.join(differing)}), and values "
            f"of different settings can't be compared: name a study of its own with "
            f"hydra.sweeper.study_name=<name>"
        )


def _draw_anew(config: Any, trials: int) -> None:
    """Change the sampler's seed, where it has one: it would draw the trials of before again."""
    sampler = config.hydra.sweeper.sampler
    if sampler is not None and sampler.get("seed") is not None:
        with flag_override(config, ["struct", "readonly"], [False, False]):
            sampler.seed += trials


def _direction(sweeper: Any) -> str:
    return str(getattr(sweeper.direction, "name", sweeper.direction))


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}", inner)
    else:
        yield key, str(value)


def _is_search(config: Any) -> bool:
    return "OptunaSweeper" in str(OmegaConf.select(config, "hydra.sweeper._target_"))
