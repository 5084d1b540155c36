"""A runner without networks: `top=3` is a mistake, `top=4` a fault, `top=9` kills its process.

Run as a script: python tests/support/standin.py -m top=1,2,3 hydra/launcher=joblib
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from clipdissect.app.launch import launch, results_folder


def run(config: Any) -> float:
    """Writes what the job saw; its value is largest at `similarity.a=10`."""
    import torch

    from clipdissect.errors import DissectError

    if config.top == 3:
        raise DissectError("three is too many")
    if config.top == 4:
        raise ZeroDivisionError("four")
    if config.top == 9:
        os._exit(9)
    value = -abs(float(config.similarity.a) - 10)
    facts = {"top": config.top, "threads": torch.get_num_threads(), "process": os.getpid()}
    (results_folder() / "seen.json").write_text(json.dumps(facts))
    objective = {
        "name": config.objective,
        "tuning": value,
        "tuning_units": 2,
        "report": value - 1,
        "report_units": 3,
    }
    (results_folder() / "metrics.json").write_text(json.dumps({"objective": objective}))
    if config.tracking.name != "none":
        from clipdissect.app.build import track

        track(config, results_folder(), {"objective": objective})
    print("done", Path(results_folder()).name)
    return value


if __name__ == "__main__":
    launch(run, "standin", unused={})
