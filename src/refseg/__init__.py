"""refseg: which pixels does this phrase refer to, in an image or a video?

import refseg
predictor = refseg.load("scout")
for answer in predictor("photo.jpg", ["left dog", "the red ball"]):
    print(answer.phrase, answer.score, answer.box())
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from refseg.version import __version__

_PUBLIC = {
    "load": "refseg.predictor",
    "Predictor": "refseg.predictor",
    "EncodedClip": "refseg.predictor",
    "Prediction": "refseg.prediction",
    "list_checkpoints": "refseg.checkpoints.zoo",
    "Example": "refseg.structures",
    "Placement": "refseg.structures",
    "Batch": "refseg.structures",
    "InvalidInput": "refseg.errors",
    "UnknownName": "refseg.errors",
    "CheckpointMismatch": "refseg.errors",
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604

if TYPE_CHECKING:
    from refseg.checkpoints.zoo import list_checkpoints as list_checkpoints
    from refseg.errors import CheckpointMismatch as CheckpointMismatch
    from refseg.errors import InvalidInput as InvalidInput
    from refseg.errors import UnknownName as UnknownName
    from refseg.prediction import Prediction as Prediction
    from refseg.predictor import EncodedClip as EncodedClip
    from refseg.predictor import Predictor as Predictor
    from refseg.predictor import load as load
    from refseg.structures import Batch as Batch
    from refseg.structures import Example as Example
    from refseg.structures import Placement as Placement


def __getattr__(name: str) -> Any:
    # Torch is loaded when a name that needs it is asked for, not by `import refseg`.
    if name not in _PUBLIC:
        raise AttributeError(f"module 'refseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
