"""Hydra's callbacks in the launching process (hydra.callbacks in conf/config.yaml)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.global_hydra import GlobalHydra
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from clipdissect.app.composition import SharingLoader
from clipdissect.results.sweeps import MULTIRUN
from clipdissect.utils.files import write_text


class Launched(Callback):
    """The task and the folder of the run or multirun, which Hydra passes only to jobs."""

    folder: ClassVar[Path | None] = None
    job: ClassVar[Callable[[Any], Any] | None] = None

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        Launched.folder = Path(config.hydra.run.dir)

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        Launched.folder = Path(config.hydra.sweep.dir)
        # Not all of Hydra's sweepers write this file, by which a job's own overrides are known.
        write_text(Launched.folder / MULTIRUN, OmegaConf.to_yaml(config))
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        hydra.config_loader = SharingLoader(hydra.config_loader.get_search_path())

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        # Jobs that ran in other processes have printed nothing here.
        if os.environ.get("RANK", "0") == "0":
            from clipdissect.app.sweep import report

            report(Path(config.hydra.sweep.dir))
