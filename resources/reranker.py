"""How well texts answer queries, by a sentence-transformers CrossEncoder, which reads the two together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from resources.embedder_prompts import settings_in
from resources.errors import UnusableInput
from resources.model_loading import pick_device
from resources.tokenizers import not_usable

SCORES_PAIRS = ("ForSequenceClassification", "ForCausalLM")
PARTS = 8
"Batches that are sorted by length together."
Pair = tuple[str, str]
"A query and a document."


class Reranker:
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
            UnusableInput: no CrossEncoder that gives one score lies there.
        """
        import torch
        from sentence_transformers import CrossEncoder

        place = pick_device(device)
        check_kind(path, revision)
        try:
            self.model = CrossEncoder(
                str(path),
                revision=revision,
                device=place,
                model_kwargs={"dtype": getattr(torch, dtype)},
                trust_remote_code=False,
                # Of logits: a sigmoid of float32 makes the clearest cases ties. And none that the files name is imported.
                activation_fn=torch.nn.Identity(),
            )
        except Exception as error:
            raise not_usable(path, "CrossEncoder", error) from None
        if self.model.num_labels != 1:
            raise UnusableInput(
                f"{path}: a CrossEncoder with {self.model.num_labels} labels; name one that gives one score, a reranker"
            )
        self.batch_size = batch_size

    def scores(self, pairs: Collection[Pair], advance: Callable[[int], None] = lambda n: None) -> dict[Pair, float]:
        """The logit of each distinct pair: the higher, the better the document answers the query."""
        ordered = sorted(set(pairs), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
        found: dict[Pair, float] = {}
        step = self.batch_size * PARTS
        for start in range(0, len(ordered), step):
            part = ordered[start : start + step]
            values = self.model.predict(part, batch_size=self.batch_size, show_progress_bar=False)
            found.update(zip(part, np.asarray(values, dtype=np.float64).reshape(-1).tolist(), strict=True))
            advance(len(part))
        return found


def check_kind(path: str | Path, revision: str | None) -> None:
    """
    Raises:
        UnusableInput: a model of another kind, which would be given an untrained layer of scores without a word.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(path), revision=revision, trust_remote_code=False)
    except Exception as error:
        raise not_usable(path, "CrossEncoder", error) from None
    kinds = config.architectures or []
    declared = settings_in(Path(path) / "config_sentence_transformers.json").get("model_type") == "CrossEncoder"
    if not declared and not any(kind.endswith(SCORES_PAIRS) for kind in kinds):
        raise UnusableInput(
            f"{path}: no CrossEncoder but {', '.join(kinds) or 'a model of an unknown kind'}, which scores no pairs; "
            f"name a reranker that sentence-transformers reads as CrossEncoder"
        )
