"""Whether a tokenizer cuts text as its own tokenizer.json says, and loses none of it. Imports no torch.

transformers 5 takes from a tokenizer.json only the vocabulary where tokenizer_config.json names a class with rules of
its own, and cuts by those. Where they are not the rules that the vocabulary was made with, spaces and line breaks get
lost, or text falls into other tokens than those that the model was trained on, and nothing is said.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.errors import UnusableInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What rules for cutting text treat otherwise than each other: runs of white space, also at both ends, line breaks behind
# signs, digits, capitals behind apostrophes, accents, full-width letters, signs of several code points.
TEXTS = (
    "The river ran on, and I'VE 12345 boats; they'll come home.\n\nChapter 1: 3.14 \n  \n end",
    "  two  spaces\n\n\ndef f(x_1):\n    return x + 1  # (y)!!\n\tend \r\n",
    "naïve cafe\u0301 — “quoted”… 日本の川 ＦＵ ﬁn 🌊 👩\u200d👧 \u00a0Привет!\n",
)
ASCII = "The river ran on, and 12 boats\ncame home."
SPACES = (" ", "Ġ", "▁")
"How vocabularies spell a space."

_as_written: dict[tuple[Any, ...], bool] = {}
"By file, size, time and class: reading a large vocabulary a second time takes about as long as the first."


def checked(tokenizer: Any, path: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer, or one by the rules of its tokenizer.json where those of its class cut text otherwise.

    Raises:
        UnusableInput: it cuts text otherwise all the same, or loses some of it.
    """
    from transformers import PreTrainedTokenizerFast

    file = own_file(path, revision)
    if file is not None and not as_written(tokenizer, file):
        by_class, tokenizer = tokenizer, PreTrainedTokenizerFast.from_pretrained(path, revision=revision or "main")
        keep_special_tokens(tokenizer, by_class)
        if not as_written(tokenizer, file):
            raise UnusableInput(
                f"{path}: transformers cuts text otherwise than its tokenizer.json says, whatever class reads it; "
                f"see what tokenizer_config.json adds to tokenizer.json, or name a model whose two files agree"
            )
    if (left := left_of(tokenizer, ASCII)) is not None:
        raise UnusableInput(
            f"{path}: its tokenizer loses text: of {ASCII!r} it keeps {left!r}; the files are not those that the model "
            f"was trained with, see tokenizer_class in tokenizer_config.json and the pre-tokenizer in tokenizer.json"
        )
    return tokenizer


def own_file(path: str | Path, revision: str | None) -> Path | None:
    """The tokenizer.json beside a model, in its folder or in the hub's cache; None where there is none."""
    if (folder := Path(path)).is_dir():
        file = folder / "tokenizer.json"
        return file if file.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(str(path), "tokenizer.json", revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def as_written(tokenizer: Any, file: Path) -> bool:
    """Whether it gives the ids that tokenizers gives by the file alone."""
    from tokenizers import Tokenizer

    state = file.stat()
    key = (file, state.st_size, state.st_mtime_ns, type(tokenizer))
    if key not in _as_written:
        written = Tokenizer.from_file(str(file))
        written.no_truncation()
        written.no_padding()
        _as_written[key] = all(
            tokenizer(text, add_special_tokens=False)["input_ids"] == written.encode(text, add_special_tokens=False).ids
            for text in TEXTS
        )
    return _as_written[key]


def keep_special_tokens(tokenizer: Any, by_class: Any) -> None:
    """Special tokens that a class has by itself and the settings do not name, as far as the vocabulary has them."""
    vocabulary = tokenizer.get_vocab()
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = getattr(by_class, name)
        if getattr(tokenizer, name) is None and token in vocabulary:
            setattr(tokenizer, name, token)


def left_of(tokenizer: Any, text: str) -> str | None:
    """What is left of a text that has gone through a tokenizer, where its vocabulary could have kept more; else None.

    Letter case, accents, and how much white space stands between words are a vocabulary's own affair.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    left = str(tokenizer.decode(ids))
    words = [r"\s*".join(map(re.escape, word)) for word in bare(text).split()]
    if re.fullmatch(r"\s*" + r"\s+".join(words) + r"\s*", bare(left)) or tokenizer.unk_token_id in ids:
        return None
    signs = set().union(*tokenizer.get_vocab())
    could = signs.issuperset(set(text) - set(" \n")) and not signs.isdisjoint(SPACES)
    return left if could else None


def bare(text: str) -> str:
    """In lower case and without accents."""
    return "".join(sign for sign in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(sign))
