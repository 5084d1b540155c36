"""Try the default configuration first, as the baseline of a search.

It runs for every sampler, even outside of the search space; inside, the sampler learns
from it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

FOLDER = "default"  # of the job
ATTRIBUTE = "default"  # of the study: the parameters, the objective, and the job's folder


def try_default(config: Any, study: Any, space: Mapping[str, Any], fixed: list[str]) -> None:
    """Run the default configuration and add its value to the study, unless it is there."""
    params = default_of(config, space)
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


def default_of(config: Any, space: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the searched keys and config groups without the search."""
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
