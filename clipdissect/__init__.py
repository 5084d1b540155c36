"""Label the hidden neurons of a vision network with free text, without training.

import clipdissect
result = clipdissect.dissect(model, layers=["layer4"], probe="photos/", concepts=["cat", "wheel"],
                             preprocess=preprocess)
result.descriptions
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipdissect._version import __version__

if TYPE_CHECKING:
    from clipdissect.api import dissect
    from clipdissect.capture.pooling import Summary
    from clipdissect.capture.settings import Settings
    from clipdissect.errors import DissectError
    from clipdissect.explore.result import Result, load

__all__ = ["DissectError", "Result", "Settings", "Summary", "__version__", "dissect", "load"]

_MODULES = {
    "dissect": "api",
    "load": "explore.result",
    "Result": "explore.result",
    "DissectError": "errors",
    "Settings": "capture.settings",
    "Summary": "capture.pooling",
}


# Subpackages for users, by what they hold: `clipdissect.probe.build("folder", root=...)`.
_PACKAGES = (
    *("concepts", "encoder", "evaluation", "method", "models", "probe", "report", "sae"),
    *("sentence", "similarity", "store", "targets"),
)


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES})


def __getattr__(name: str) -> Any:
    # Lazy, because importing torch takes seconds: `clipdissect --help` must not wait for it.
    from importlib import import_module

    if name in _MODULES:
        return getattr(import_module(f"clipdissect.{_MODULES[name]}"), name)
    if not name.startswith("_"):
        try:
            return import_module(f"clipdissect.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"clipdissect.{name}":
                raise
    raise AttributeError(f"module 'clipdissect' has no attribute '{name}'")
