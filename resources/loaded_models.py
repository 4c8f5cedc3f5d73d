"""The one model that a process keeps in memory, handed from stage to stage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Model = TypeVar("Model")


class LoadedModels:
    """Keeps what was loaded last, and releases it before something else is loaded.

    A run of one layer after another uses one model many times; two models at once may not fit the device.
    """

    def __init__(self) -> None:
        self._identity: Hashable = None
        self._model: Any = None

    def get(self, identity: Hashable, load: Callable[[], Model]) -> Model:
        if self._model is None or identity != self._identity:
            self.release()
            self._model, self._identity = load(), identity
        return self._model

    def release(self) -> None:
        close = getattr(self._model, "close", None)
        if close is not None:
            close()
        self._model = self._identity = None
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
