"""Text to contexts: documents are read one by one, tokenized, and packed without padding."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from interp_assets.progress import Progress
from interp_assets.settings import Corpus
from resources.errors import NotNow, UnusableInput, install_command
from resources.tokenizers import first_line

DOCUMENTS_PER_BATCH = 256


def documents(corpus: Corpus, path: Path) -> Iterator[str]:
    """The texts of a corpus in their order; empty ones are passed over.

    Raises:
        UnusableInput: unreadable, or without the named column.
    """
    read = {".parquet": parquet_texts, ".jsonl": jsonl_texts, ".txt": plain_texts}.get(path.suffix)
    texts = read(path, corpus.column) if read is not None and path.is_file() else hub_texts(corpus)
    return (text for text in texts if text and text.strip())


def parquet_texts(path: Path, column: str) -> Iterator[str | None]:
    try:
        with pq.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                raise UnusableInput(f"{path}: no column {column!r}; there are: {', '.join(file.schema_arrow.names)}")
            kind = file.schema_arrow.field(column).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                raise UnusableInput(f"{path}: column {column!r} holds {kind}, not text")
            for batch in file.iter_batches(columns=[column]):
                yield from batch.column(0).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        # pyarrow says OSError of damaged files too; those of the operating system carry a number.
        if getattr(error, "errno", None):
            raise
        raise UnusableInput(f"{path}: not a readable Parquet file ({error})") from None


def jsonl_texts(path: Path, column: str) -> Iterator[str | None]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except ValueError as error:
                raise UnusableInput(f"{path}: line {number} is not JSON ({error})") from None
            if not isinstance(row, dict):
                raise UnusableInput(f"{path}: line {number} is not an object with a text under {column!r}")
            if column not in row:
                raise UnusableInput(f"{path}: line {number} has no {column!r}; there are: {', '.join(row) or 'none'}")
            yield text_or_none(row[column], f"{path}: line {number}: {column!r}")


def text_or_none(value: Any, where: str) -> str | None:
    if not isinstance(value, str | None):
        raise UnusableInput(f"{where} is {type(value).__name__}, not text")
    return value


def plain_texts(path: Path, column: str) -> Iterator[str]:
    """Documents of a text file are what empty lines separate."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for blank, group in itertools.groupby(lines, key=lambda line: not line.strip()):
            if not blank:
                yield "".join(group).rstrip("\n")


def hub_texts(corpus: Corpus) -> Iterator[str | None]:
    """
    Raises:
        UnusableInput: the data set has no such column, or the column holds no text.
        NotNow: the hub was not reached, or has no such data set: it may tomorrow.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise NotNow(f"corpus {corpus.path}: reading a hub data set needs: {install_command('datasets')}") from None
    name, _, configuration = corpus.path.partition(":")
    try:
        rows = load_dataset(name, configuration or None, split=corpus.split, streaming=True)
        for number, row in enumerate(rows, 1):
            if corpus.column not in row:
                raise UnusableInput(f"corpus {corpus.path}: no column {corpus.column!r}; there are: {', '.join(row)}")
            yield text_or_none(row[corpus.column], f"corpus {corpus.path}: row {number}: {corpus.column!r}")
    except (OSError, ValueError) as error:
        raise NotNow(f"corpus {corpus.path}: cannot be read from the hub ({first_line(error)})") from None


def pack(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, corpus: Corpus, vocabulary: int, progress: Progress
) -> pl.DataFrame:
    """Contexts of `context_length` tokens, BOS first where asked, as the table `tables.CORPUS`.

    Raises:
        UnusableInput: fewer tokens than the study asks for, no BOS token, or token ids that the model does not know.
    """
    bos = tokenizer.bos_token_id
    if corpus.bos and bos is None:
        raise UnusableInput("corpus.bos: the tokenizer has no BOS token; set bos: false")
    head = [bos] if corpus.bos else []
    room = corpus.context_length - len(head)
    wanted = corpus.tokens // corpus.context_length
    ids = np.empty(wanted * room, dtype=np.uint32)
    starts: list[int] = []
    filled = 0
    texts = iter(texts)
    while filled < len(ids) and (batch := list(itertools.islice(texts, DOCUMENTS_PER_BATCH))):
        encoded = tokenizer([text + corpus.separator for text in batch], add_special_tokens=False)["input_ids"]
        before = filled
        for piece in encoded:
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
