"""The default configuration of a search, tried before any other.

What a search finds is worth something only where it beats what one gets without a search, on the
same units. So the configuration with nothing searched is always tried first, whatever the sampler,
also where it lies outside of the search space. Where it lies inside, the sampler learns from it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

FOLDER = "default"  # of its job, beside those of the trials
ATTRIBUTE = "default"  # of the study: the parameters, the objective, and the job's folder


def try_default(config: Any, study: Any, space: Mapping[str, Any], fixed: list[str]) -> None:
    """Run the default configuration, unless the study has its value; note the value in the study.

    Args:
        config: of the multirun, with `hydra`.
        study: Optuna's.
        space: searched parameter to its distribution.
        fixed: overrides that aren't searched.
    """
    params = default_of(config, space)
    if study.user_attrs.get(ATTRIBUTE, {}).get("params") == params:
        return
    print("the default configuration comes first, to compare the trials with")
    _launch(config, fixed)
    folder = Path(config.hydra.sweep.dir).absolute() / FOLDER
    metrics = folder / "metrics.json"
    if not metrics.is_file():
        return  # it failed, which is said at the end with its error
    objective = json.loads(metrics.read_text(encoding="utf-8"))["objective"]
    inside = _add(study, params, space, objective["tuning"])
    study.set_user_attr(ATTRIBUTE, {
        "params": params, "inside": inside, "folder": str(folder), "objective": objective,
    })  # fmt: skip


def default_of(config: Any, space: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the searched parameters are without the search.

    Args:
        config: of the multirun.
        space: searched parameter to its distribution; a key, or a config group.
    """
    choices = config.hydra.runtime.choices
    return {
        key: choices[key] if key in choices else OmegaConf.select(config, key.lstrip("+"))
        for key in space
    }


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
        task_function=Launched.job, config=config,
    )  # fmt: skip
    overrides = [*fixed, f"hydra.sweep.subdir={FOLDER}"]
    launcher.launch([overrides], initial_job_idx=config.hydra.sweeper.n_trials)


def _add(study: Any, params: dict[str, Any], space: Mapping[str, Any], value: float) -> bool:
    """Add the default to the study as a trial; False where it lies outside of the space."""
    from optuna.trial import create_trial

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both functions are marked as experimental
        try:
            trial = create_trial(params=params, distributions=dict(space), value=value,
                                 user_attrs={ATTRIBUTE: True})  # fmt: skip
        except (ValueError, TypeError):  # how Optuna says that a parameter is out of its range
            return False
        study.add_trial(trial)
    return True
