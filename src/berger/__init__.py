"""Berger: EEG foundation models from raw recordings to honest benchmarks.

The names below are imported on first use, so that ``import berger`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from berger.corpus import open_corpus, prepare
    from berger.errors import BergerError
    from berger.interop.sklearn import BergerClassifier
    from berger.models import create_model, list_models, load_checkpoint
    from berger.recordings import read_recording

__version__ = "0.1.0"
__all__ = [
    "BergerClassifier",
    "BergerError",
    "create_model",
    "list_models",
    "load_checkpoint",
    "open_corpus",
    "prepare",
    "read_recording",
]

_HOMES = {
    "BergerClassifier": "interop.sklearn",
    "BergerError": "errors",
    "create_model": "models",
    "list_models": "models",
    "load_checkpoint": "models",
    "open_corpus": "corpus",
    "prepare": "corpus",
    "read_recording": "recordings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
