"""The one model that a process keeps in memory, handed from stage to stage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from resources.leases import Lease, Leases, Waiting, slot_count, slots_folder

Model = TypeVar("Model")

DEVICE = "gpu"
"The slot that a model in memory occupies."


class LoadedModels:
    """Keeps what was loaded last, and releases it before something else is loaded.

    A run of one layer after another uses one model many times; two models at once may not fit the device.
    """

    def __init__(self) -> None:
        self._identity: Hashable = None
        self._model: Any = None
        self._kept: Lease | None = None
        "The slots that the model occupies while it stays."

    @contextmanager
    def slots(self, names: Sequence[str], doing: str, waiting: Waiting | None) -> Iterator[None]:
        """Occupy devices and services of this machine; afterwards they are kept for as long as the model stays.

        Raises:
            Taken: others occupy them, and `waiting` is None.
        """
        lease = Leases(slots_folder(), doing).acquire_all({name: slot_count(name) for name in names}, waiting)
        with lease:
            yield
            if self._model is not None and DEVICE in names:
                before, self._kept = self._kept, lease.pop_all()
                if before is not None:
                    before.release()

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
        if self._kept is not None:
            self._kept.release()
            self._kept = None
