"""How the contexts of a new study begin, how long they are and how many: such that the first stages can make them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from interp_assets.sae_survey import CHANGE, PLACEHOLDER, Found, said_by
from interp_assets.settings import Corpus
from resources.errors import NotNow, UnusableInput
from resources.hub import cached, fetch, repository_of
from resources.sparse_autoencoders.config import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "tekken.json")
TOKENIZER_FILES = (*TOKENIZERS, "tokenizer_config.json", "special_tokens_map.json", "merges.txt", "added_tokens.json")
STANDS_IN = "the tokenizer has no BOS token; its end of text stands for it, as in TransformerLens"


def choose_contexts(found: Found, root: Path) -> None:
    """Set how contexts begin, their length, and how many tokens of the text are used.

    Args:
        root: where the study's paths begin.
    """
    folder = folder_of_model(found.model, root)
    tokenizer = tokenizer_in(folder, found.model)
    choose_beginning(found, folder, tokenizer)
    choose_length(found, folder)
    if tokenizer is not None:
        choose_tokens(found, root, tokenizer)


def folder_of_model(model: str, root: Path) -> Path | None:
    """Where a model's files are, be they only its settings; None where nothing of it is here."""
    folder = root / Path(model).expanduser()
    if folder.is_dir():
        return folder
    here = cached(model) if repository_of(model) is not None else None
    return here.folder if here is not None else None


def tokenizer_in(folder: Path | None, model: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model that is here. Of one on the hub it is fetched where the settings leave open how texts begin."""
    if folder is None or not any((folder / name).is_file() for name in TOKENIZERS):
        if folder is None or model == PLACEHOLDER or "bos_token" in tokenizer_settings(folder):
            return None
        if repository_of(model) is None or cached(model) is None:
            return None
        with suppress(NotNow):
            folder = fetch(model, None, TOKENIZER_FILES).folder
    from resources.tokenizers import load_tokenizer

    with suppress(UnusableInput, NotNow):
        return load_tokenizer(folder)
    return None


def tokenizer_settings(folder: Path) -> dict[str, object]:
    with suppress(UnusableInput, OSError):
        return read_config(folder / "tokenizer_config.json")
    return {}


def choose_beginning(found: Found, folder: Path | None, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """With BOS or without: as the SAEs were trained, where the tokenizer has what that takes."""
    said = said_by(found, "bos")
    has_bos = has_bos_token(folder, tokenizer)
    if said == "true" and has_bos is False:
        found.bos = stand_in(tokenizer)
        trained = "the SAEs were trained with BOS"
        found.assumed["corpus.bos"] = f"{trained}, and {STANDS_IN if found.bos else 'the tokenizer has no such token'}"
    elif said is not None:
        found.bos = said == "true"
        found.assumed["corpus.bos"] = "as the SAEs were trained"
    else:
        found.bos = has_bos is not False
        found.assumed["corpus.bos"] = {
            True: "the tokenizer has a BOS token; the SAEs' settings do not say",
            False: "the tokenizer has no BOS token",
            None: "the SAEs' settings do not say, and no tokenizer is here to ask",
        }[has_bos]


def has_bos_token(folder: Path | None, tokenizer: PreTrainedTokenizerBase | None) -> bool | None:
    """Whether a tokenizer has a BOS token; None where nothing says so. Its class may have one that no file names."""
    if tokenizer is not None:
        return tokenizer.bos_token_id is not None
    settings = tokenizer_settings(folder) if folder is not None else {}
    return settings["bos_token"] is not None if "bos_token" in settings else None


def stand_in(tokenizer: PreTrainedTokenizerBase | None) -> str | bool:
    """The token that ends texts, where it can be named in a study."""
    from resources.control_tokens import bos_id

    end = None if tokenizer is None else tokenizer.eos_token
    with suppress(UnusableInput, ValueError):
        if end is not None and bos_id(tokenizer, str(end)) is not None:
            return str(Corpus(path="", bos=str(end)).bos)
    return False


def choose_length(found: Found, folder: Path | None) -> None:
    """That of the SAEs' training where it is shorter than usual, and no longer than the model has positions."""
    length = said_by(found, "context")
    if length is not None and length.isdigit() and 8 <= int(length) < found.context_length:
        found.context_length = int(length)
        found.assumed["corpus.context_length"] = "that of the SAEs' training"
    from interp_assets.corpus.positions import positions_of
    from resources.tokenizers import text_config

    with suppress(UnusableInput, NotNow):
        positions = positions_of(text_config(folder)) if folder is not None else None
        if positions is not None and positions < found.context_length:
            found.context_length = positions
            found.assumed["corpus.context_length"] = "as many positions as the model has"


def choose_tokens(found: Found, root: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """No more tokens than the text holds, where it is a file or a folder here."""
    path = root / Path(found.corpus).expanduser()
    if not path.exists():
        return
    from interp_assets.corpus.contexts import document_ids, documents, next_batch

    settings = Corpus(path=found.corpus)
    room = found.context_length - bool(found.bos)
    contexts, tokens = found.tokens // found.context_length, 0
    texts = documents(settings, path)
    try:
        while tokens < contexts * room and (batch := next_batch(texts)):
            tokens += sum(map(len, document_ids(tokenizer, batch, settings.separator)))
    except UnusableInput as error:
        found.assumed["corpus.path"] = f"{CHANGE}, or name its column: {error}"
        return
    if 0 < tokens // room < contexts:
        found.tokens = tokens // room * found.context_length
