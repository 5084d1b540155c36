"""Check a search by Optuna before it starts, and report on it when it ends.

The sweeper's settings are in conf/experiment/tune_*.yaml."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf, flag_override

from clipdissect.app.help import RUNNERS
from clipdissect.errors import DissectError

# What a trial's value depends on, except for the searched parameters.
SETTING = (
    "target",
    "probe",
    "concepts",
    "encoder",
    "similarity",
    "sentence",
    "objective",
    "objective_seed",
    "capture.summary",
    "capture.layout",
    "capture.precision",
)
SEARCHED = "dissect"  # the runner that returns an objective
SQLITE = "sqlite:///"


class Search(Callback):
    """Hydra's callback for multiruns of the Optuna sweeper; idle in others."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        try:
            if _is_search(config):
                prepare(config)
        except DissectError as error:
            # Hydra turns a callback's errors into warnings, but not SystemExit.
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        if _is_search(config):
            from clipdissect.app.search.report import report

            report(study_of(config), Path(config.hydra.sweep.dir))


def _is_search(config: Any) -> bool:
    return "OptunaSweeper" in str(OmegaConf.select(config, "hydra.sweeper._target_"))


def prepare(config: Any) -> None:
    """Open the study, add this multirun's folder, and try the default configuration."""
    space, fixed = space_of(config)
    _check(config, space)
    _check_grid(config)
    storage = config.hydra.sweeper.storage
    if storage.startswith(SQLITE):
        Path(storage.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    study = study_of(config)
    _check_setting(study, setting_of(config, set(space)))
    folders = study.user_attrs.get("folders", [])
    study.set_user_attr("folders", [*folders, str(Path(config.hydra.sweep.dir).absolute())])
    if study.trials:
        print(f"study {study.study_name} has {len(study.trials)} trials: going on with it")
        sampler = config.hydra.sweeper.sampler
        if sampler is not None and sampler.get("seed") is not None:
            with flag_override(config, ["struct", "readonly"], [False, False]):
                sampler.seed += len(study.trials)  # the same seed would repeat earlier trials
    try_default(config, study, space, fixed)


def _check(config: Any, space: Mapping[str, Any]) -> None:
    sweeper, job = config.hydra.sweeper, config.hydra.job.name
    if job in RUNNERS and job != SEARCHED:
        raise DissectError(f"{job} has no objective to search by: use clipdissect {SEARCHED}")
    if not config.objective:
        raise DissectError(
            "a search needs an objective: set objective=top1 or objective=<sentence encoder>_cos"
        )
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
            "objectives are maximised: a search needs hydra.sweeper.direction=maximize"
        )


def study_of(config: Any) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sweeper = config.hydra.sweeper
    return optuna.create_study(
        study_name=sweeper.study_name,
        storage=sweeper.storage,
        direction=_direction(sweeper),
        load_if_exists=True,
    )


def _direction(sweeper: Any) -> str:
    return str(getattr(sweeper.direction, "name", sweeper.direction))


def space_of(config: Any) -> tuple[dict[str, Any], list[str]]:
    """Return Optuna's distributions by parameter, and the overrides that aren't searched.

    The space is the sweeper's and the command line's; a single value there fixes a parameter.
    """
    space, fixed = _distributions(config)
    given: Any = OmegaConf.to_container(config.hydra.overrides.task)
    parsed = OverridesParser.create().parse_overrides(given)
    single = [text for text, o in zip(given, parsed, strict=True) if not o.is_sweep_override()]
    return {key: value for key, value in space.items() if key not in fixed}, single


def _distributions(config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return Optuna's distributions and the single values, by parameter."""
    from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

    params = config.hydra.sweeper.params or {}
    listed = [f"{key}={value}" for key, value in params.items()]
    given: Any = OmegaConf.to_container(config.hydra.overrides.task)
    found: tuple[dict[str, Any], dict[str, Any]] = create_params_from_overrides([*listed, *given])
    return found


def _check_grid(config: Any) -> None:
    """Raise a DissectError for a grid of parameters that have no list of values."""
    from optuna import distributions

    sampler = config.hydra.sweeper.sampler
    if sampler is None or not str(sampler.get("_target_")).endswith("GridSampler"):
        return
    kinds = ("UniformDistribution", "LogUniformDistribution", "IntLogUniformDistribution")
    endless = [getattr(distributions, kind) for kind in kinds]
    # The sampler also looks at those of the preset that the command line sets to one value.
    names = [name for name, values in _distributions(config)[0].items() if type(values) in endless]
    if names:
        raise DissectError(
            f"the grid sampler tries every combination of listed values, and {', '.join(names)} "
            f"{'is an interval' if len(names) == 1 else 'are intervals'}: set "
            "hydra.sweeper.params=null and list values, such as -m similarity.a=5,10,20"
        )


def setting_of(config: Any, searched: set[str]) -> dict[str, str]:
    """Return, as text, all that a trial's value depends on besides the searched parameters."""
    setting: dict[str, str] = {}
    for group in SETTING:
        node = OmegaConf.select(config, group)
        value = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        setting |= dict(_flat(group, value))
    return {
        key: value
        for key, value in setting.items()
        if not any(key == name or key.startswith(f"{name}.") for name in searched)
    }


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}", inner)
    else:
        yield key, str(value)


def _check_setting(study: Any, setting: dict[str, str]) -> None:
    """Write the setting into a new study, or compare it with an existing study's."""
    prefix = "setting "
    attributes = study.user_attrs.items()
    old = {key.removeprefix(prefix): v for key, v in attributes if key.startswith(prefix)}
    if not old:
        for key, value in setting.items():
            study.set_user_attr(f"{prefix}{key}", value)
        return
    differing = [
        f"{key} is {setting.get(key, 'searched')}, was {old.get(key, 'searched')}"
        for key in sorted(old | setting)
        if old.get(key) != setting.get(key)
    ]
    if differing:
        raise DissectError(
            f"study {study.study_name} has other settings ({'; '.join(differing)}), and values "
            f"under different settings can't be compared: set a new study name with "
            f"hydra.sweeper.study_name=<name>"
        )


FOLDER = "default"  # of the job
ATTRIBUTE = "default"  # of the study: the parameters, the objective, and the job's folder


def try_default(config: Any, study: Any, space: Mapping[str, Any], fixed: list[str]) -> None:
    """Run the default configuration and add its value to the study, unless it is there."""
    choices = config.hydra.runtime.choices
    params = {
        key: choices[key] if key in choices else OmegaConf.select(config, key.lstrip("+"))
        for key in space
    }
    if study.user_attrs.get(ATTRIBUTE, {}).get("params") == params:
        return
    print("the default configuration comes first, to compare the trials with")
    _launch(config, fixed)
    folder = Path(config.hydra.sweep.dir).absolute() / FOLDER
    metrics = folder / "metrics.json"
    if not metrics.is_file():
        return  # its error is printed at the end
    objective = json.loads(metrics.read_text(encoding="utf-8"))["objective"]
    inside = _add(study, params, space, objective["tuning"])
    default = {"params": params, "inside": inside, "folder": str(folder), "objective": objective}
    study.set_user_attr(ATTRIBUTE, default)


def _launch(config: Any, fixed: list[str]) -> None:
    """Run one job as the sweeper would, numbered after its trials."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext

    from clipdissect.app.callbacks import Launched

    hydra = GlobalHydra.instance().hydra
    assert hydra is not None and Launched.job is not None
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(hydra.config_loader, Callbacks()),
        task_function=Launched.job,
        config=config,
    )
    overrides = [*fixed, f"hydra.sweep.subdir={FOLDER}"]
    launcher.launch([overrides], initial_job_idx=config.hydra.sweeper.n_trials)


def _add(study: Any, params: dict[str, Any], space: Mapping[str, Any], value: float) -> bool:
    """Add the default as a trial; return False if it is outside of the search space."""
    from optuna.trial import create_trial

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both functions are marked as experimental
        try:
            trial = create_trial(
                params=params,
                distributions=dict(space),
                value=value,
                user_attrs={ATTRIBUTE: True},
            )
        except (ValueError, TypeError):  # a parameter is out of its range
            return False
        study.add_trial(trial)
    return True
