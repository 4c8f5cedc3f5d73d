"""Text to contexts: documents are read one by one, tokenized, and packed without padding."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from interp_assets.corpus.files import corpus_files
from interp_assets.corpus.readers import hub_texts, texts_of
from interp_assets.progress import Progress
from interp_assets.settings import Corpus
from resources.control_tokens import bos_id, controls_spelt
from resources.errors import UnusableInput
from resources.tokenizers import text_ids, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DOCUMENTS_PER_BATCH = 256
CHARACTERS_PER_BATCH = 1 << 22


def documents(corpus: Corpus, path: Path) -> Iterator[str]:
    """The texts of a corpus in their order; empty ones are passed over.

    Args:
        path: a file, a folder of shards, or what is neither where the corpus is a data set of the hub.

    Raises:
        UnusableInput: unreadable, or without the named column.
    """
    files = corpus_files(path)
    from_files = (texts_of(file, corpus.column) for file in files)
    texts = itertools.chain.from_iterable(from_files) if files else hub_texts(corpus)
    return (text for text in texts if text and text.strip())


def pack(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, corpus: Corpus, vocabulary: int, progress: Progress
) -> pl.DataFrame:
    """Contexts of `context_length` tokens, BOS first where asked, as the table `tables.CORPUS`.

    Raises:
        UnusableInput: fewer tokens than the study asks for, no BOS token, or token ids that the model does not know.
    """
    bos = bos_id(tokenizer, corpus.bos)
    head = [] if bos is None else [bos]
    room = corpus.context_length - len(head)
    wanted = corpus.tokens // corpus.context_length
    ids = np.empty(wanted * room, dtype=np.uint32)
    starts: list[int] = []
    filled = 0
    texts = iter(texts)
    while filled < len(ids) and (batch := next_batch(texts)):
        before = filled
        for piece in document_ids(tokenizer, batch, corpus.separator):
            if filled >= len(ids):
                break
            part = piece[: len(ids) - filled]
            starts.append(filled)
            ids[filled : filled + len(part)] = part
            filled += len(part)
        progress.advance(filled - before)
    if filled < len(ids):
        there = filled // room * corpus.context_length
        raise UnusableInput(
            f"corpus {corpus.path}: holds {there:,} tokens in whole contexts, corpus.tokens asks for {corpus.tokens:,}; "
            + ("lower it or give more text" if there else "the corpus is empty or too short for one context")
        )
    if (largest := max([*head, int(ids.max())])) >= vocabulary:
        raise UnusableInput(
            f"the tokenizer does not fit the model: it gives token id {largest:,}, the model's vocabulary ends at "
            f"{vocabulary - 1:,}; subject_model.path needs the tokenizer that the model was trained with"
        )
    return as_table(ids.reshape(wanted, room), np.array(starts), head)


def next_batch(texts: Iterator[str]) -> list[str]:
    batch: list[str] = []
    characters = 0
    for text in itertools.islice(texts, DOCUMENTS_PER_BATCH):
        batch.append(text)
        characters += len(text)
        if characters >= CHARACTERS_PER_BATCH:
            break
    return batch


def document_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], separator: str) -> list[list[int]]:
    """The token ids of documents, each with the separator behind it.

    A document and a separator of plain text are one text: "\n\n" may make one token with what it follows. Control tokens
    are those alone that the separator spells, such as <|endoftext|>; what a document spells stays text.
    """
    end = token_ids(tokenizer, [separator])[0]
    control = controls_spelt(tokenizer, separator, end)
    if not control:
        return text_ids(tokenizer, [text + separator for text in texts])
    first = end.index(control[0])
    plain = separator[: max(0, separator.find(str(tokenizer.convert_ids_to_tokens(end[first]))))]
    found = token_ids(tokenizer, [text + separator for text in texts])
    for n, ids in enumerate(found):
        if controls_spelt(tokenizer, texts[n] + separator, ids) != control:
            found[n] = text_ids(tokenizer, [texts[n] + plain])[0] + end[first:]
    return found


def as_table(rows: np.ndarray, starts: np.ndarray, head: list[int]) -> pl.DataFrame:
    wanted, room = rows.shape
    tokens = np.concatenate([np.tile(np.array(head, dtype=np.uint32), (wanted, 1)), rows], axis=1)
    per_context = (
        pl.DataFrame(
            {"context": (starts // room).astype(np.uint32), "position": (starts % room + len(head)).astype(np.uint32)}
        )
        .group_by("context", maintain_order=True)
        .agg(documents="position")
    )
    contexts = pl.DataFrame({"context": np.arange(wanted, dtype=np.uint32)})
    contexts = contexts.with_columns(tokens=pl.Series(tokens).arr.to_list())
    empty = pl.lit([], dtype=pl.List(pl.UInt32))
    return contexts.join(per_context, on="context", how="left", maintain_order="left").with_columns(
        pl.col("documents").fill_null(empty)
    )


def tokens_matrix(corpus: pl.DataFrame) -> np.ndarray:
    """The tokens of a `corpus` table as uint32 [contexts, context_length]."""
    return corpus["tokens"].explode().to_numpy().reshape(len(corpus), -1)
