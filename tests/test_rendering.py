"""Windows as text: marks stand around what fires, no space or character is lost, BOS is not shown."""

from __future__ import annotations

import re
from itertools import product

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast

from interp_assets.examples.rendering import Rendering, marks_of
from interp_assets.explanations import extractive, prompts
from interp_assets.settings import ExtractiveExplainer, LlmExplainer
from resources.language_models.protocol import Generated, Usage
from resources.language_models.structured import Unusable
from tests.tiny import VOCABULARY, WORDS, make_tokenizer


def byte_level() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are single bytes: characters fall apart."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def metaspace() -> PreTrainedTokenizerFast:
    """A SentencePiece-like tokenizer: a token decoded alone loses its leading space."""
    words = ["<s>", "<unk>", "a", "▁the", "▁sea", "▁was", "▁cal", "m", "."]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


@pytest.mark.parametrize("make", [byte_level, metaspace, lambda: make_tokenizer(VOCABULARY)])
def test_marks_add_signs_and_lose_nothing(make) -> None:  # type: ignore[no-untyped-def]
    tokenizer = make()
    rendering = Rendering(tokenizer)
    tokens = tokenizer("größer – als 7")["input_ids"][:7] if make is byte_level else [3, 4, 5, 6, 7, 8]
    plain = rendering.text(tokens)
    for marks in product([False, True], repeat=len(tokens)):
        text = rendering.with_marks(tokens, marks)
        assert text.count("<<") == text.count(">>")
        if make is not byte_level:
            assert text.replace("<<", "").replace(">>", "") == plain
            runs = sum(mark and (i == 0 or not marks[i - 1]) for i, mark in enumerate(marks))
            assert text.count("<<") == runs


def test_spaces_stand_outside_the_marks() -> None:
    rendering = Rendering(metaspace())
    window = rendering.window([0, 3, 4, 5, 6, 7, 8], start=0)
    assert rendering.with_marks(window, [False, False, True, False, True, False, False]) == "the <<sea>> was <<cal>>m."
    assert [rendering.word(token) for token in (4, 7)] == [" sea", "m"]


def test_bos_is_not_shown() -> None:
    rendering = Rendering(make_tokenizer(VOCABULARY))
    window = rendering.window([0, 2, 3], start=0)
    assert rendering.text(window) == f"{WORDS[0]} {WORDS[1]}"
    assert "<s>" not in rendering.with_marks(window, [True, True, False])


def test_marks_are_a_share_of_the_maximum() -> None:
    assert marks_of([0.0, 1.0, 0.3, 0.29], 0.3) == [False, True, True, False]
    assert marks_of([0.0, 2.0, 0.1], 0.0) == [False, True, True]
    assert marks_of([0.0, 0.0], 0.3) == [False, False]


def test_extractive_quotes_what_the_latent_fires_on() -> None:
    """A word in every window on which the latent never fires must not be quoted, however frequent."""
    rendering = Rendering(make_tokenizer(VOCABULARY))
    filler, fires, also = 10, 20, 30
    windows = [
        extractive.words_of([filler, fires, filler, 11 + i, also], [0.0, 5.0, 0.0, 0.0, 2.0], rendering)
        for i in range(6)
    ]
    text = extractive.explain(windows, ExtractiveExplainer(words=3, phrases=0))
    assert text == f"{VOCABULARY[fires]}, {VOCABULARY[also]}"
    silent = [extractive.words_of([filler, fires], [0.0, 0.0], rendering)]
    assert extractive.explain(silent, ExtractiveExplainer()) is None


def test_tokens_join_to_words() -> None:
    rendering = Rendering(metaspace())
    words = extractive.words_of([3, 6, 7, 8, 4], [0.0, 1.0, 3.0, 0.0, 0.5], rendering)
    assert [word.text for word in words] == ["the", "calm", ".", "sea"]
    assert [word.activation for word in words] == [0.0, 3.0, 0.0, 0.5]


PLAIN = LlmExplainer(engine="e")


@pytest.mark.parametrize(
    ("reply", "finished", "expected"),
    [
        ('{"explanation": "names of rivers"}', True, "names of rivers"),
        ('{"explanation": " names\\nof  rivers. "}', True, "names of rivers."),
        ('```json\n{"steps": ["a", "b {"], "explanation": "names"}\n```', True, "names"),
        ('{"explanation": "Names of rivers. They are', False, "Names of rivers."),
    ],
)
def test_replies_that_can_be_used(reply: str, finished: bool, expected: str) -> None:
    assert prompts.read_reply(Generated(reply, finished, Usage(0, 0, 0))) == expected


@pytest.mark.parametrize(
    ("reply", "finished", "reason"),
    [
        ("", True, "the reply is empty"),
        ("  \n ", True, "the reply is empty"),
        ("names of rivers", True, "holds no JSON object"),
        ("I would say", False, "no JSON object before it was cut off"),
        ('{"explanation": names}', True, "not valid JSON"),
        ('{"explanation": ""}', True, "the explanation is empty"),
        ('{"explanation": ["a"]}', True, "no text `explanation`"),
        ('{"answer": "a"}', True, "no text `explanation`"),
        ('{"explanation": "names of', False, "cut off before its first sentence ended"),
        ('{"steps": ["the marked', False, "no text `explanation` before it was cut off"),
        ('{"explanation": "' + "x " * 400 + '"}', True, "more than 600"),
    ],
)
def test_replies_that_cannot_be_used_say_why(reply: str, finished: bool, reason: str) -> None:
    with pytest.raises(Unusable, match=re.escape(reason)):
        prompts.read_reply(Generated(reply, finished, Usage(0, 0, 0)))


def test_prompt_options() -> None:
    rendering = Rendering(make_tokenizer(VOCABULARY))
    windows = [([2, 3, 4], [0.0, 4.0, 2.0]), ([5, 6, 7], [1.0, 0.0, 0.0])]
    plain = prompts.prompt(windows, None, PLAIN, rendering)[-1].content
    assert plain.splitlines() == [
        f"Excerpt 1: {WORDS[0]} <<{WORDS[1]} {WORDS[2]}>>",
        f"Excerpt 2: <<{WORDS[3]}>> {WORDS[4]} {WORDS[5]}",
    ]
    more = LlmExplainer(engine="e", show_activations=True, promoted_tokens=True, chain_of_thought=True)
    system, *worked, user = prompts.prompt(windows, ["x", " y"], more, rendering)
    assert f"Strengths: {WORDS[1]} (10), {WORDS[2]} (5)" in user.content
    assert f"Strengths: {WORDS[3]} (3)" in user.content
    assert "Output tokens: 'x', ' y'" in user.content
    assert '"steps"' in system.content
    # Worked examples have the form that is asked for.
    assert all("Strengths: " in asked.content and "Output tokens: " in asked.content for asked in worked[::2])
    assert all('"steps"' in answer.content for answer in worked[1::2])
    assert '"steps"' not in prompts.prompt(windows, None, PLAIN, rendering)[0].content


def test_rows_of_the_embedding_that_no_token_has() -> None:
    """A model's vocabulary is often padded: Qwen's and Pythia's unembeddings have more rows than their tokenizers tokens."""
    rendering = Rendering(make_tokenizer(VOCABULARY))
    assert rendering.word(len(VOCABULARY) + 5) == f"<token {len(VOCABULARY) + 5}>"
    assert rendering.word(len(VOCABULARY) - 1).strip() == VOCABULARY[-1]
