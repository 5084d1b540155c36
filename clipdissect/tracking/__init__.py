"""Trackers: where metrics go besides the run's own files; `OPTIONS` lists them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipdissect.tracking.base import Finished, Tracker, none
from clipdissect.tracking.runs_csv import csv
from clipdissect.tracking.wandb_run import wandb
from clipdissect.utils import registry

OPTIONS: dict[str, Callable[..., Tracker]] = {"csv": csv, "none": none, "wandb": wandb}

__all__ = ["OPTIONS", "Finished", "Tracker", "build"]


def build(name: str, **parameters: Any) -> Tracker:
    tracker: Tracker = registry.build("tracking", OPTIONS, name, parameters)
    return tracker
