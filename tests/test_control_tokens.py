"""Content makes no control tokens, whatever it spells; ids of all other text are the tokenizer's own.

PrimeIntellect-ai/renderers #116 and huggingface/tokenizers #787 report it; what SentencePiece itself does is said in
google/sentencepiece #624.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordLevel
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from interp_assets.corpus.contexts import document_ids
from resources.control_tokens import control_ids
from resources.tokenizers import text_ids, token_ids

PLAIN = ["a  b\n\nsee  the   sea", "the sea", "", " ", "i < s > / s", "the      sea [tool]x"]
SPELT = ["was <s>40</s> the sea", "<s>", "</s></s>", "a [tool] b</s>c      d", "the  sea</s>\n\n", "is!!</s>!"]
LETTERS = "abcdehilnorstwx4056<>/!\n[]"


def byte_level(ignore_merges: bool = False) -> PreTrainedTokenizerFast:
    """Like GPT-2's family: control tokens beside the vocabulary, runs of white space and a tool's name among the added."""
    vocabulary = {sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("!", "!"), ("Ċ", "Ċ")]
    for pair in merges:
        vocabulary["".join(pair)] = len(vocabulary)
    if ignore_merges:  # as Llama 3 has it: a word that the vocabulary holds is taken whole
        vocabulary["</s>"] = len(vocabulary)
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<mask>"])
    tokenizer.add_tokens([AddedToken("      ", normalized=False), AddedToken("[tool]", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def padded_with_a_sign() -> PreTrainedTokenizerFast:
    """A sign of the text itself is said to be special, as in vocabularies that came without padding."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"pad_token": "!"})
    return tokenizer


def byte_fallback() -> PreTrainedTokenizerFast:
    """Like Llama 2: a SentencePiece vocabulary with its control tokens in front."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS]
    model = BPE(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=[],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False) for piece in ("<unk>", "<s>", "</s>")])
    tokenizer.add_tokens([AddedToken("[tool]", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram() -> PreTrainedTokenizerFast:
    """Like XGLM: control tokens are pieces that the model itself would find in a text."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("▁the", -3.0), *((x, -5.0) for x in LETTERS)]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.add_tokens([AddedToken("[tool]", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


FAMILIES: list[Callable[[], PreTrainedTokenizerBase]] = [
    byte_level,
    lambda: byte_level(ignore_merges=True),
    padded_with_a_sign,
    byte_fallback,
    unigram,
    ByT5Tokenizer,  # in Python, without Rust beneath
]
NAMES = ["byte_level", "ignore_merges", "padded_with_a_sign", "byte_fallback", "unigram", "python"]


@pytest.mark.parametrize("make", FAMILIES, ids=NAMES)
def test_content_makes_no_control_tokens(make: Callable[[], PreTrainedTokenizerBase]) -> None:
    tokenizer = make()
    control = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    assert any(control.intersection(ids) for ids in tokenizer(SPELT, add_special_tokens=False)["input_ids"])  # control
    found = text_ids(tokenizer, SPELT)
    assert not any(control.intersection(ids) for ids in found)
    assert tokenizer.batch_decode(found, clean_up_tokenization_spaces=False) == SPELT


@pytest.mark.parametrize("make", FAMILIES, ids=NAMES)
def test_other_text_has_the_ids_that_it_had(make: Callable[[], PreTrainedTokenizerBase]) -> None:
    tokenizer = make()
    today = tokenizer(PLAIN, add_special_tokens=False)["input_ids"]
    assert text_ids(tokenizer, PLAIN) == today
    assert text_ids(tokenizer, [*SPELT, *PLAIN])[len(SPELT) :] == today
    assert tokenizer(PLAIN + SPELT, add_special_tokens=False) == make()(PLAIN + SPELT, add_special_tokens=False)
    assert text_ids(tokenizer, []) == []


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_added_tokens_that_are_no_control_tokens_stay(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    tokenizer = make()
    raw = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    raw.encode_special_tokens = True
    assert text_ids(tokenizer, SPELT) == [raw.encode(text, add_special_tokens=False).ids for text in SPELT]
    assert tokenizer.convert_tokens_to_ids("[tool]") in text_ids(tokenizer, SPELT)[3]


def test_a_sign_that_is_called_special_is_read_as_the_text_that_it_is() -> None:
    assert text_ids(padded_with_a_sign(), ["is!!</s>!"]) == text_ids(byte_level(), ["is!!</s>!"])


def test_the_switch_of_transformers_finds_control_tokens_among_the_pieces_of_a_unigram_vocabulary() -> None:
    tokenizer = unigram()
    with_switch = tokenizer(SPELT, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.eos_token_id in with_switch[2]


def test_an_unknown_word_is_unknown_and_the_token_for_it_is_not_to_be_spelt() -> None:
    tokenizer = Tokenizer(WordLevel({"<s>": 0, "<unk>": 1, "the": 2, "sea": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")
    assert text_ids(words, ["the lake", "the <s> sea"]) == [[2, 1], [2, 1, 3]]
    assert 0 not in text_ids(byte_fallback(), ["<unk> the sea"])[0]  # WikiText is full of it


def test_threads_do_not_change_what_others_read() -> None:
    """With the switch on the shared Rust tokenizer this fails: what one thread sets, another encodes by."""
    tokenizer = byte_level()
    text, template = "was </s> the sea", "<s>the sea</s>"
    right = text_ids(tokenizer, [text])[0], tokenizer([template], add_special_tokens=False)["input_ids"][0]
    wrong: list[str] = []

    def read(what: Callable[[], list[int]], expected: list[int]) -> None:
        for _ in range(300):
            if what() != expected:
                wrong.append("ids of another thread")

    threads = [
        threading.Thread(target=read, args=(lambda: text_ids(tokenizer, [text])[0], right[0])),
        threading.Thread(
            target=read, args=(lambda: tokenizer([template], add_special_tokens=False)["input_ids"][0], right[1])
        ),
    ]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert not tokenizer.backend_tokenizer.encode_special_tokens


def test_control_ids_are_the_special_ones_alone() -> None:
    tokenizer = byte_level()
    assert {tokenizer.convert_ids_to_tokens(i) for i in control_ids(tokenizer)} == {"<s>", "</s>", "<mask>"}


WITH_CONTROL = ["</s>", "\n\n</s>\n", "<s></s>"]


@pytest.mark.parametrize("separator", ["\n\n", "", "\n", "s>", *WITH_CONTROL])
@pytest.mark.parametrize("make", FAMILIES[:5], ids=NAMES[:5])
def test_documents_and_separator_have_the_ids_of_one_text(
    make: Callable[[], PreTrainedTokenizerBase], separator: str
) -> None:
    tokenizer = make()
    documents = [*PLAIN, "the sea\n"]
    today = tokenizer([text + separator for text in documents], add_special_tokens=False)["input_ids"]
    assert document_ids(tokenizer, documents, separator) == today
    if separator == "\n" and make is byte_level:  # control: the two make one token
        apart = text_ids(tokenizer, [documents[-1]])[0] + text_ids(tokenizer, [separator])[0]
        assert today[-1] != apart


@pytest.mark.parametrize("separator", ["\n\n", *WITH_CONTROL])
@pytest.mark.parametrize("make", FAMILIES[:5], ids=NAMES[:5])
def test_only_the_separator_makes_control_tokens(make: Callable[[], PreTrainedTokenizerBase], separator: str) -> None:
    tokenizer = make()
    control = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    expected = [token for token in token_ids(tokenizer, [separator])[0] if token in control]
    assert len(expected) == separator.count("s>")
    found = document_ids(tokenizer, [*SPELT, "lid </"], separator)
    assert all([token for token in ids if token in control] == expected for ids in found)
    whole = [text + separator for text in [*SPELT, "lid </"]]
    assert tokenizer.batch_decode(found, clean_up_tokenization_spaces=False) == whole


def test_a_document_and_a_plain_separator_do_not_make_a_control_token_together() -> None:
    tokenizer = byte_level()
    assert tokenizer.eos_token_id in tokenizer("lid </s>", add_special_tokens=False)["input_ids"]  # control
    assert tokenizer.eos_token_id not in document_ids(tokenizer, ["lid </"], "s>")[0]


class OfMistral(PreTrainedTokenizerFast):
    """Its own class, so that it can be changed below."""


def test_a_tokenizer_that_does_not_list_its_added_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the one that transformers builds on mistral-common."""
    words = Tokenizer(WordLevel({"<s>": 0, "<unk>": 1, "the": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = OfMistral(tokenizer_object=words, bos_token="<s>", unk_token="<unk>")

    def lists_none(_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(OfMistral, "added_tokens_decoder", property(lists_none))
    assert control_ids(tokenizer) == {0, 1}
    assert text_ids(tokenizer, ["the the", "the lake"]) == [[2, 2], [2, 1]]
