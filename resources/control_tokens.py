"""Control tokens, such as `<s>` or `<|im_end|>`: which ids they are, and how to read texts in which they are only spelt.

A control token means something to a model because of who put it there: the separator of a corpus, the template of a
chat. What stands in a document or in a reply is content, whatever it spells.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from resources.errors import UnusableInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@lru_cache(maxsize=8)
def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of all tokens that the tokenizer calls special."""
    found = set(tokenizer.all_special_ids)
    with suppress(NotImplementedError):  # that of mistral-common has no such list, and makes no control tokens of text
        found.update(token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset(found)


def bos_id(tokenizer: Any, bos: bool | str) -> int | None:
    """The id that contexts begin with; None where they begin with none.

    Args:
        bos: whether with the tokenizer's BOS token, or the text of the token.

    Raises:
        UnusableInput: there is no such token.
    """
    if not isinstance(bos, str):
        if bos and tokenizer.bos_token_id is None:
            end = tokenizer.eos_token
            named = f", or name the token that documents began with in training, such as {end}" if end else ""
            raise UnusableInput(f"corpus.bos: the tokenizer has no BOS token; set bos: false{named}")
        return tokenizer.bos_token_id if bos else None
    ids = tokenizer(bos, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    if len(ids) != 1 or (ids[0] == tokenizer.unk_token_id and bos != tokenizer.unk_token):
        special = sorted(map(str, tokenizer.convert_ids_to_tokens(sorted(control_ids(tokenizer))[:20])))
        raise UnusableInput(
            f"corpus.bos: {bos!r} is no token of the tokenizer; its special tokens are: {', '.join(special) or 'none'}"
        )
    return ids[0]


def controls_spelt(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> list[int]:
    """The control tokens among a text's ids; the one for what is unknown counts only where the text spells it."""
    control = control_ids(tokenizer)
    if tokenizer.unk_token_id is not None and str(tokenizer.unk_token) not in text:
        control -= {tokenizer.unk_token_id}
    return [token_id for token_id in ids if token_id in control]


def content_offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Token ids of a text, read as if there were no control tokens, and behind which character of it each token ends.

    Args:
        tokenizer: a fast one.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    if controls_spelt(tokenizer, text, ids):
        encoding = without_control_tokens(tokenizer).encode(text)
        ids, offsets = encoding.ids, encoding.offsets
    return ids, [end for _, end in offsets]


def ids_as_content(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, read as if there were no control tokens."""
    if tokenizer.is_fast:
        return [encoding.ids for encoding in without_control_tokens(tokenizer).encode_batch(list(texts))]
    return tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]


@lru_cache(maxsize=2)
def without_control_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A tokenizer of the same ids in which control tokens have spellings that no text has.

    `split_special_tokens=True` is not enough: it lets a Unigram or word vocabulary find `</s>` among its own pieces, and
    is a switch on the one Rust tokenizer that all callers share, so that two threads change each other's ids.
    """
    controls = {token_id: str(tokenizer.convert_ids_to_tokens(token_id)) for token_id in control_ids(tokenizer)}
    return respelt_tokenizer(tokenizer, {token: secrets.token_hex(16) for token in controls.values()})


def respelt_tokenizer(tokenizer: PreTrainedTokenizerBase, spellings: Mapping[str, str]) -> Tokenizer:
    """A tokenizer of the same ids in which some tokens are spelt otherwise.

    Args:
        spellings: of each such token. A token that is text as well keeps its own.
    """
    described: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    by_name = isinstance(model["vocab"], dict)
    pieces = set(model["vocab"] if by_name else (piece for piece, _ in model["vocab"]))
    merged = {"".join(pair) for pair in model.get("merges", ())}
    # A character, or what merges make, is text that somebody calls special: "!" stands for padding in some vocabularies.
    text = {token for token in spellings if token in merged or (len(token) == 1 and token in pieces)}

    def respelt(token: str) -> str:
        return token if token in text else spellings.get(token, token)

    described["added_tokens"] = [
        token | {"content": respelt(token["content"])}
        for token in described["added_tokens"]
        if token["content"] not in text
    ]
    if by_name:
        model["vocab"] = {respelt(piece): token_id for piece, token_id in model["vocab"].items()}
    else:
        model["vocab"] = [(respelt(piece), score) for piece, score in model["vocab"]]
    if model.get("unk_token"):
        model["unk_token"] = respelt(model["unk_token"])
    described |= {"post_processor": None, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps(described))
