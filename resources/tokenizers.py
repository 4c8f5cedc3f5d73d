"""Tokenizers, and what can be told of a model without loading it. Imports no torch, which `interp plan` does without."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from resources.control_tokens import controls_spelt, ids_as_content
from resources.errors import NotNow, UnusableInput
from resources.language_models.protocol import LikelihoodRequest, paragraphs, without_system_role
from resources.tokenizer_checks import checked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from resources.language_models.protocol import Message, Request


def do_without_torch() -> None:
    """For a process that reads text and runs no model: transformers imports torch wherever it is, for seconds."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would advise to install torch


def not_usable(path: str | Path, what: str, error: Exception) -> Exception:
    """What it means that loading failed: the files are at fault, or the hub was not reached, or it is the machine."""
    if (isinstance(error, OSError) and error.errno) or isinstance(error, MemoryError | UnusableInput):
        return error
    if isinstance(error, ImportError):
        return NotNow(f"{path}: a {what} that needs another package ({first_line(error)})")
    if "trust_remote_code" in str(error):
        return UnusableInput(
            f"{path}: a {what} that is code of its maker's, which is never run here; name a model of a kind that "
            f"transformers knows"
        )
    if not Path(path).is_dir():
        return NotNow(
            f"{path}: no such folder, and no {what} of that name to be had from the hub ({first_line(error)})"
        )
    return UnusableInput(f"{path}: no usable {what} ({first_line(error)})")


def load_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """
    Raises:
        UnusableInput: there is no tokenizer at that place, or one that loses text (`resources.tokenizer_checks`).
    """
    from transformers import AutoTokenizer

    try:
        return checked(AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False), path, revision)
    except Exception as error:
        raise not_usable(path, "tokenizer", error) from None


def text_config(path: str | Path, revision: str | None = None) -> Any:
    """The configuration of a model, of its text model where it reads more than text.

    Raises:
        UnusableInput: there is none at that place.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception as error:
        raise not_usable(path, "model configuration", error) from None
    return config.get_text_config()


def vocabulary_size(path: str | Path, revision: str | None = None) -> int:
    """How many token ids the model knows, from its configuration alone."""
    return int(text_config(path, revision).vocab_size)


def prompt_texts(
    tokenizer: Any, prompts: Iterable[Sequence[Message]], chat_template: Mapping[str, Any] | None = None
) -> list[str]:
    """Each prompt as text up to where the reply begins; a model without a chat format gets the contents as paragraphs.

    Args:
        chat_template: further arguments of the tokenizer's chat template.

    Raises:
        UnusableInput: the chat template refuses a prompt, with and without a system message.
    """
    if tokenizer.chat_template is None:
        return [text_beginning(tokenizer) + paragraphs(messages) for messages in prompts]
    return [chat_text(tokenizer, each, chat_template or {}) for each in prompts]


def text_beginning(tokenizer: Any) -> str:
    """What stands before plain text: the BOS token of a tokenizer that puts it there by itself, as a server does too."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token if ids and ids[0] == tokenizer.bos_token_id else ""


def chat_text(tokenizer: Any, messages: Sequence[Message], chat_template: Mapping[str, Any]) -> str:
    """
    Raises:
        UnusableInput: the chat template refuses the messages, or cannot be read.
    """

    def text(messages: Sequence[Message]) -> str:
        chat = [{"role": message.role, "content": message.content} for message in messages]
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **chat_template)

    try:
        try:
            return text(messages)
        except TemplateError:
            # Gemma 2 and the first Mistral models, for example, know no system role and say so by raising an error.
            if not messages or messages[0].role != "system":
                raise
            return text(without_system_role(messages))
    except TemplateError as error:
        roles = ", ".join(dict.fromkeys(message.role for message in messages))
        raise UnusableInput(
            f"{tokenizer.name_or_path}: its chat template takes no messages of {roles} ({first_line(error)}); "
            f"name another model, or give its tokenizer a chat template that takes them"
        ) from None


def request_texts(
    tokenizer: Any, requests: Sequence[Request], chat_template: Mapping[str, Any] | None = None
) -> list[str]:
    """Of each request all that a model reads: the prompt, or the text and what is to continue it."""
    found = []
    for request in requests:
        if isinstance(request, LikelihoodRequest):
            found.append(text_beginning(tokenizer) + request.text + request.continuation)
        else:
            found += prompt_texts(tokenizer, [request.messages], chat_template)
    return found


def token_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Of texts in which special tokens, where there are any, are written out."""
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def text_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts as content: special tokens spelt in them stay text."""
    found = token_ids(tokenizer, list(texts))
    spelt = [n for n, ids in enumerate(found) if controls_spelt(tokenizer, texts[n], ids)]
    if spelt:
        for n, ids in zip(spelt, ids_as_content(tokenizer, [texts[n] for n in spelt]), strict=True):
            found[n] = ids
    return found


def count_tokens(tokenizer: Any, texts: list[str]) -> list[int]:
    return [len(ids) for ids in token_ids(tokenizer, texts)]


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
