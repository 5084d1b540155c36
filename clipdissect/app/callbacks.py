"""What Hydra calls in the launching process (see hydra.callbacks in conf/config.yaml)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback


class Launched(Callback):
    """Remembers the folder of the run or multirun, which Hydra itself tells to jobs alone, and what
    does a job."""

    folder: ClassVar[Path | None] = None
    job: ClassVar[Callable[[Any], Any] | None] = None

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        """A job alone starts."""
        Launched.folder = Path(config.hydra.run.dir)

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """A multirun starts."""
        Launched.folder = Path(config.hydra.sweep.dir)

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """All jobs are over; where they ran elsewhere, they have printed nothing here."""
        if os.environ.get("RANK", "0") == "0":
            print(f"multirun: {Launched.folder}")
