"""Texts from the columns of tables: Parquet, Arrow, CSV. They are read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from interp_assets.corpus.files import Kind
from interp_assets.corpus.texts import encoding_of, unpacked
from resources.errors import UnusableInput

ROWS_PER_BATCH = 1024
CSV_BLOCK = 1 << 24
"Bytes; no row may be longer."


def parquet_texts(file: Path, kind: Kind, column: str) -> Iterator[str | None]:
    with pq.ParquetFile(file) as opened:
        check_column(file, opened.schema_arrow, column)
        row = 0
        for batch in opened.iter_batches(ROWS_PER_BATCH, columns=[column]):
            yield from values_of(batch.column(0), f"{file}: ", row)
            row += len(batch)


def arrow_texts(file: Path, kind: Kind, column: str) -> Iterator[str | None]:
    """Of a file in Arrow's format for files, Feather among them, or in that for streams, which `datasets` writes."""
    with pa.memory_map(str(file)) as source:
        beginning = source.read(6)
        source.seek(0)
        batches = file_batches(source) if beginning == b"ARROW1" else pa.ipc.open_stream(source)
        row = 0
        for batch in batches:
            check_column(file, batch.schema, column)
            values = batch.column(column)
            values.validate()
            for start in range(0, len(values), ROWS_PER_BATCH):
                yield from values_of(values.slice(start, ROWS_PER_BATCH), f"{file}: ", row + start)
            row += len(values)


def file_batches(source: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    reader = pa.ipc.open_file(source)
    return map(reader.get_batch, range(reader.num_record_batches))


def check_column(file: Path, schema: pa.Schema, column: str) -> None:
    """
    Raises:
        UnusableInput: there is no such column, or it holds no text.
    """
    if column not in schema.names:
        raise UnusableInput(f"{file}: no column {column!r}; there are: {', '.join(schema.names)}")
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UnusableInput(f"{file}: column {column!r} holds {kind}, not text")


def values_of(values: pa.Array, where: str, row: int) -> list[str | None]:
    """
    Args:
        row: how many rows stand before these.
    """
    try:
        return values.to_pylist()
    except UnicodeDecodeError:
        for number, value in enumerate(values, row + 1):
            try:
                value.as_py()
            except UnicodeDecodeError:
                raise UnusableInput(f"{where}row {number} is not UTF-8") from None
        raise


def csv_texts(file: Path, kind: Kind, column: str) -> Iterator[str | None]:
    """The first line names the columns; other columns are not read."""
    for batch in csv_batches(file, kind, column):
        yield from batch.column(0).to_pylist()


def csv_batches(file: Path, kind: Kind, column: str) -> Iterator[pa.RecordBatch]:
    with unpacked(file, kind.compression) as stream:
        encoding = encoding_of(stream)
    # pyarrow takes UTF-8's mark away itself.
    reading = pyarrow.csv.ReadOptions(
        block_size=CSV_BLOCK, encoding="utf8" if encoding.startswith("utf-8") else encoding, use_threads=False
    )
    parsing = pyarrow.csv.ParseOptions(delimiter="\t" if kind.suffix == ".tsv" else ",", newlines_in_values=True)
    as_text = pyarrow.csv.ConvertOptions(include_columns=[column], column_types={column: pa.string()})
    with unpacked(file, kind.compression) as stream:
        names = pyarrow.csv.open_csv(stream, reading, parsing).schema.names
    if column not in names:
        raise UnusableInput(f"{file}: no column {column!r}; there are: {', '.join(names)}")
    with unpacked(file, kind.compression) as stream:
        yield from pyarrow.csv.open_csv(stream, reading, parsing, as_text)
