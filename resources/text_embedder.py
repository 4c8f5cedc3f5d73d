"""Texts to unit vectors by sentence-transformers; a text that was embedded before is not embedded again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from resources.model_loading import pick_device
from resources.tokenizers import not_usable

REMEMBERED_TEXTS = 200_000


class TextEmbedder:
    def __init__(
        self,
        path: str | Path,
        dtype: str = "float32",
        device: str = "auto",
        batch_size: int = 64,
        revision: str | None = None,
    ) -> None:
        """
        Raises:
            UnusableInput: no sentence-transformers model lies there.
        """
        import torch
        from sentence_transformers import SentenceTransformer

        place = pick_device(device)
        try:
            self.model = SentenceTransformer(
                str(path),
                revision=revision,
                device=place,
                model_kwargs={"dtype": getattr(torch, dtype)},
                trust_remote_code=False,
            )
        except Exception as error:
            raise not_usable(path, "sentence-transformers model", error) from None
        self.batch_size = batch_size
        self._known: dict[str, np.ndarray] = {}

    def new(self, texts: Sequence[str]) -> int:
        """How many of the texts have not been embedded yet."""
        return len({text for text in texts if text not in self._known})

    def embed(self, texts: Sequence[str], advance: Callable[[int], None] = lambda n: None) -> np.ndarray:
        """Unit vectors float32 [texts, d]; equal texts are embedded once, also from call to call."""
        if len(self._known) > REMEMBERED_TEXTS:
            self._known.clear()
        new = sorted({text for text in texts if text not in self._known}, key=lambda text: (len(text), text))
        step = self.batch_size * 4
        for start in range(0, len(new), step):
            part = new[start : start + step]
            vectors = self.model.encode(
                part,
                batch_size=self.batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_tensor=True,
            )
            self._known.update(zip(part, vectors.float().cpu().numpy(), strict=True))
            advance(len(part))
        return np.stack([self._known[text] for text in texts])
