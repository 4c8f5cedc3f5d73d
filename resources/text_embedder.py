"""Texts to unit vectors by sentence-transformers; a text that was embedded before is not embedded again.

Many embedders were trained with other prompts before what is looked for than before what is found. What a text is, its
role, decides which prompt stands before it; of embedders without prompts all roles are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from resources.embedder_prompts import ROUTERS, prompts_by_role
from resources.errors import UnusableInput
from resources.model_loading import pick_device
from resources.tokenizers import not_usable

REMEMBERED_TEXTS = 200_000
"Vectors that are kept for later calls. Where more are asked for at once, the rest are handed over and not kept."

Role = Literal["document", "query", "instructed"]
"What is found; what it is looked for by; the same where the text brings an instruction of its own."
Treatment = tuple[str, bool]
"The prompt, and whether the model's modules for queries are run, where it has others for them."


class TokenVectors(NamedTuple):
    """The tokens of one text, special tokens and those of a prompt left out."""

    vectors: np.ndarray
    "float32 [tokens, d], of any length"
    spans: np.ndarray
    "int64 [tokens, 2]: where in the text each begins, and behind which character it ends"


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
        self.path, self.batch_size = path, batch_size
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

    def embed(
        self, texts: Sequence[str], advance: Callable[[int], None] = lambda n: None, role: Role = "document"
    ) -> np.ndarray:
        """Unit vectors float32 [texts, d]; equal texts are embedded once, also from call to call."""
        found: dict[str, np.ndarray] = {}
        for part, vectors in self.stream(texts, advance, role):
            found.update(zip(part, vectors, strict=True))
        return np.stack([found[text] for text in texts])

    def stream(
        self, texts: Collection[str], advance: Callable[[int], None] = lambda n: None, role: Role = "document"
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        """The distinct texts with their unit vectors float32 [part, d], part by part, in an order of its own.

        Each is embedded once, however many there are; memory grows with what is kept alone.

        Args:
            advance: told how many texts were embedded.
        """
        treatment = self.treatments[role]
        self._make_room(texts, treatment)
        new = self._unknown({role: texts})[treatment]
        for known in self._in_parts(set(texts) - new):
            yield known, np.stack([self._known[treatment, text] for text in known])
        for part in self._in_parts(new):
            vectors = self._vectors(part, treatment)
            self._keep(part, vectors, treatment)
            yield part, vectors
            advance(len(part))

    def stream_tokens(
        self, texts: Collection[str], advance: Callable[[int], None] = lambda n: None, role: Role = "document"
    ) -> Iterator[tuple[str, TokenVectors]]:
        """The distinct texts with their tokens, in an order of its own; their own vectors are kept, not those of tokens.

        Raises:
            UnusableInput: the model has no vectors of tokens, or does not say where in a text they stand.
        """
        treatment = self.treatments[role]
        self._make_room(texts, treatment)
        for part in self._in_parts(set(texts)):
            tokens, vectors = self._tokens(part, treatment)
            self._keep(part, vectors, treatment)
            yield from zip(part, tokens, strict=True)
            advance(len(part))

    def _in_parts(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Those of about one length together, so that little is padded."""
        ordered, step = sorted(texts, key=lambda text: (len(text), text)), self.batch_size * 4
        for start in range(0, len(ordered), step):
            yield ordered[start : start + step]

    def _make_room(self, texts: Iterable[str], treatment: Treatment) -> None:
        """Forget what is not asked for, where it leaves no room for what is."""
        wanted = {(treatment, text) for text in texts}
        if len(self._known.keys() | wanted) > REMEMBERED_TEXTS:
            self._known = {key: vector for key, vector in self._known.items() if key in wanted}

    def _keep(self, texts: Sequence[str], vectors: np.ndarray, treatment: Treatment) -> None:
        room = max(0, REMEMBERED_TEXTS - len(self._known))
        # Copies: a view would keep the vectors of the whole part.
        self._known.update(
            ((treatment, text), vector.copy()) for text, vector in zip(texts[:room], vectors, strict=False)
        )

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

    def _tokens(self, texts: list[str], treatment: Treatment) -> tuple[list[TokenVectors], np.ndarray]:
        """Of each text its tokens, and its unit vector as `_vectors` has it."""
        import torch

        prompt, as_query = treatment
        encode: Any = self.model.encode_query if as_query else self.model.encode_document
        outputs = encode(
            texts, prompt=prompt, batch_size=self.batch_size, output_value=None, show_progress_bar=False
        )  # fmt: skip
        if not {"token_embeddings", "input_ids", "attention_mask"} <= set(outputs[0]):
            raise UnusableInput(f"{self.path}: has no vectors of single tokens; name an embedder that is a transformer")
        tokenizer: Any = self.model.tokenizer
        if not getattr(tokenizer, "is_fast", False):
            raise UnusableInput(
                f"{self.path}: its tokenizer does not say where its tokens stand; name another embedder"
            )
        cut = {"truncation": True, "max_length": self.model.max_seq_length}
        cut_up = tokenizer([prompt + text for text in texts], return_offsets_mapping=True, **cut)
        found = []
        for output, ids, offsets in zip(outputs, cut_up["input_ids"], cut_up["offset_mapping"], strict=True):
            there = output["attention_mask"].bool()
            if output["input_ids"][there].tolist() != ids:
                raise UnusableInput(f"{self.path}: cuts texts otherwise than its tokenizer does; name another embedder")
            spans = np.array(offsets, dtype=np.int64).reshape(-1, 2) - len(prompt)
            inside = (spans[:, 0] >= 0) & (spans[:, 1] > spans[:, 0])
            found.append(TokenVectors(output["token_embeddings"][there].float().cpu().numpy()[inside], spans[inside]))
        vectors = torch.nn.functional.normalize(torch.stack([output["sentence_embedding"] for output in outputs]))
        return found, vectors.float().cpu().numpy()
