"""Texts to unit vectors by sentence-transformers; a text that was embedded before is not embedded again.

Many embedders were trained with other prompts before what is looked for than before what is found. What a text is, its
role, decides which prompt stands before it; of embedders without prompts all roles are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from resources.embedder_prompts import ROUTERS, prompts_by_role
from resources.model_loading import pick_device
from resources.tokenizers import not_usable

REMEMBERED_TEXTS = 200_000

Role = Literal["document", "query", "instructed"]
"What is found; what it is looked for by; the same where the text brings an instruction of its own."
Treatment = tuple[str, bool]
"The prompt, and whether the model's modules for queries are run, where it has others for them."


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
        routes = any(type(module).__name__ in ROUTERS for module in self.model.children())
        document, query = prompts_by_role(self.model.prompts, self.model.default_prompt_name)
        self.treatments: dict[Role, Treatment] = {
            "document": (document, False),
            "query": (query, routes),
            "instructed": ("", routes),
        }
        self._known: dict[tuple[Treatment, str], np.ndarray] = {}

    def new(self, texts: Mapping[Role, Iterable[str]]) -> int:
        """How many of the texts have not been embedded yet."""
        return sum(map(len, self._unknown(texts).values()))

    def _unknown(self, texts: Mapping[Role, Iterable[str]]) -> dict[Treatment, set[str]]:
        found: dict[Treatment, set[str]] = {}
        for role, some in texts.items():
            treatment = self.treatments[role]
            new = (text for text in some if (treatment, text) not in self._known)
            found.setdefault(treatment, set()).update(new)
        return found

    def prepare(self, texts: Mapping[Role, Iterable[str]], advance: Callable[[int], None] = lambda n: None) -> None:
        """Embed texts that `embed` is going to be asked for; those that are treated alike go through the model together."""
        if len(self._known) > REMEMBERED_TEXTS:
            self._known.clear()
        for treatment, some in self._unknown(texts).items():
            new = sorted(some, key=lambda text: (len(text), text))
            step = self.batch_size * 4
            for start in range(0, len(new), step):
                part = new[start : start + step]
                self._known.update(
                    zip(((treatment, text) for text in part), self._vectors(part, treatment), strict=True)
                )
                advance(len(part))

    def _vectors(self, texts: list[str], treatment: Treatment) -> np.ndarray:
        prompt, as_query = treatment
        encode: Any = self.model.encode_query if as_query else self.model.encode_document
        vectors = encode(
            texts,
            # An empty one too: without any, the model's default would be taken.
            prompt=prompt,
            batch_size=self.batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_tensor=True,
        )
        return vectors.float().cpu().numpy()

    def embed(
        self, texts: Sequence[str], advance: Callable[[int], None] = lambda n: None, role: Role = "document"
    ) -> np.ndarray:
        """Unit vectors float32 [texts, d]; equal texts are embedded once, also from call to call."""
        self.prepare({role: texts}, advance)
        return np.stack([self._known[self.treatments[role], text] for text in texts])
