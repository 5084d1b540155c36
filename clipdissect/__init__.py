"""Label the hidden neurons of a vision network with free text, without training.

import clipdissect
result = clipdissect.dissect(model, layers=["layer4"], probe="photos/", concepts=["cat", "wheel"],
                             preprocess=preprocess)
result.descriptions
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipdissect.dissection import Result, dissect
    from clipdissect.errors import DissectError

__version__ = "0.1.0"
__all__ = ["DissectError", "Result", "__version__", "dissect"]

_HOMES = {"dissect": "dissection", "Result": "dissection", "DissectError": "errors"}


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds: `clipdissect --help` must not wait for it.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"clipdissect.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'clipdissect' has no attribute '{name}'")
