"""For every vocabulary: without its signs the marked text is the text, and marks stand where the tokens are."""

from __future__ import annotations

import random
from itertools import pairwise
from os.path import commonprefix
from typing import Any

import pytest

from interp_assets.examples.characters import Characters, bytes_of, characters
from interp_assets.examples.rendering import Rendering
from tests.vocabularies import KINDS, loaded

TEXTS = [
    "the sea 🌊🌊 is wide, naïve café",
    " the ＦＵ sea",
    "日本の川へ行った the river",
    "👩\u200d👩\u200d👧 family e\u0301 the end",
    "𝒜𝒷𝒸 \ufffd\ufffd a\ufffdb\n\n\tdef f(x):\n    return x  # the end.\r\n",
    "don't stop , can't \x00\x1f ไทย हिन्दी",
]
BYTES = ["byte_level", "byte_fallback", "byte_fallback_no_prefix"]
"Vocabularies that can write any text."


def without_signs(marked: str) -> str:
    return marked.replace("<<", "").replace(">>", "")


def old_with_marks(tokenizer: Any, ids: list[int], marks: list[bool]) -> str:
    """Control: what a run of tokens adds to the text so far, as it was taken from the decoded beginnings of the window."""
    changes = [i for i in range(1, len(ids)) if marks[i] != marks[i - 1]]
    parts, before = [], ""
    for first, last in pairwise([0, *changes, len(ids)]):
        text = tokenizer.decode(ids[:last])
        text = text if last == len(ids) else text.rstrip("\ufffd")
        run, before = text[len(commonprefix([before, text])) :], text  # noqa: RUF071
        inner = run.lstrip(" ")
        parts.append(f"{run[: len(run) - len(inner)]}<<{inner}>>" if marks[first] else run)
    return "".join(parts)


def windows(tokenizer: Any) -> list[list[int]]:
    """Whole texts and windows of them, which may begin and end within a character."""
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    return [
        each[start : start + length] for each in ids for length in (len(each), 9) for start in range(0, len(each), 4)
    ]


# Blaizzy/mlx-vlm #1126, sgl-project/sglang #31598: text told by what a beginning adds to a shorter one.
@pytest.mark.parametrize("kind", KINDS)
def test_without_the_signs_the_shown_text_is_the_text(kind: str) -> None:
    tokenizer = loaded(kind)
    rendering, draw = Rendering(tokenizer), random.Random(0)
    doubled = 0
    for ids in windows(tokenizer):
        text = rendering.text(ids)
        for share in (0.1, 0.4, 0.8):
            marks = [draw.random() < share for _ in ids]
            marked = rendering.with_marks(ids, marks)
            assert without_signs(marked) == text
            assert marked.count("<<") == marked.count(">>")
            assert ("<<" in marked) == any(marks)
            doubled += without_signs(old_with_marks(tokenizer, ids, marks)) != text
    # Control: the old way is noticed where SentencePiece spells characters in bytes.
    assert bool(doubled) == kind.startswith("byte_fallback")


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_in_whole_characters_is_what_the_tokenizer_decodes(kind: str) -> None:
    tokenizer = loaded(kind)
    rendering = Rendering(tokenizer)
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert rendering.text(ids) == tokenizer.decode(ids)
        assert kind not in BYTES or rendering.text(ids) == text
    assert rendering.texts([ids, [], ids[:2]]) == [rendering.text(each) for each in (ids, [], ids[:2])]


def marked_characters(text: str, parts: list[bytes], marks: list[bool]) -> list[bool]:
    """By brute force, from the bytes of each token: which characters have a byte of a marked one."""
    owners = [mark for part, mark in zip(parts, marks, strict=True) for _ in part]
    found, place = [], 0
    for sign in text:
        found.append(any(owners[place : place + len(sign.encode())]))
        place += len(sign.encode())
    assert place == len(owners)
    return found


def inside(marked: str) -> list[bool]:
    """Which characters of a text stand between signs, from the text with its signs."""
    found, on, rest = [], False, marked
    while rest:
        if rest.startswith(("<<", ">>")):
            on, rest = rest.startswith("<<"), rest[2:]
        else:
            found.append(on)
            rest = rest[1:]
    return found


@pytest.mark.parametrize("kind", BYTES)
def test_a_mark_covers_all_of_a_character_and_nothing_else(kind: str) -> None:
    tokenizer = loaded(kind)
    rendering, draw = Rendering(tokenizer), random.Random(1)
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        spelt = tokenizer.convert_ids_to_tokens(ids)
        if kind == "byte_level":
            # Each letter of a name spells one byte; which, is not looked at.
            sizes = [len(name) for name in spelt]
        else:
            sizes = [1 if name.startswith("<0x") else len(name.replace("▁", " ").encode()) for name in spelt]
            # The space that Llama 2 puts in front is in the first token and not in the text.
            sizes[0] -= sum(sizes) - len(text.encode())
        for _ in range(20):
            marks = [draw.random() < 0.3 for _ in ids]
            expected = marked_characters(text, [b"x" * size for size in sizes], marks)
            got = inside(rendering.with_marks(ids, marks))
            for sign, wanted, has in zip(text, expected, got, strict=True):
                assert wanted == has or (sign == " " and wanted), (text, marks)


def test_marks_on_parts_of_characters_cover_those() -> None:
    tokenizer = loaded("byte_fallback")
    ids = tokenizer("the ＦＵ sea", add_special_tokens=False)["input_ids"]
    assert len(ids) == 9
    rendering = Rendering(tokenizer)
    for place, shown in [
        (0, "<<the>> ＦＵ sea"),
        (2, "the <<Ｆ>>Ｕ sea"),
        (4, "the <<Ｆ>>Ｕ sea"),
        (6, "the Ｆ<<Ｕ>> sea"),
    ]:
        marks = [i == place for i in range(len(ids))]
        assert rendering.with_marks(ids, marks) == shown
    assert rendering.with_marks(ids, [i in (4, 5) for i in range(9)]) == "the <<ＦＵ>> sea"


def test_characters_beside_a_cut_one_are_kept() -> None:
    """A window that ends within a character: byte-fallback decoders make replacement signs of the whole run of bytes."""
    tokenizer = loaded("byte_fallback")
    ids = tokenizer("日本川", add_special_tokens=False)["input_ids"]
    cut = ids[:-1]
    assert Rendering(tokenizer).text(cut).strip() == "日本\ufffd"
    assert "日" not in tokenizer.decode(cut)  # control
    assert Rendering(tokenizer).text(ids[2:]) == "\ufffd\ufffd本川"


def test_bytes_are_cut_as_python_cuts_them() -> None:
    draw = random.Random(2)
    for _ in range(500):
        data = "日a🌊é\ufffd".encode() + bytes(draw.randrange(256) for _ in range(6))
        data = data[draw.randrange(len(data)) :]
        found = [*characters(data)]
        assert "".join(sign for sign, _ in found) == data.decode(errors="replace")
        assert sum(size for _, size in found) == len(data)


@pytest.mark.parametrize("kind", KINDS)
def test_only_tokens_of_bytes_have_bytes(kind: str) -> None:
    """Names that look like bytes are words where the vocabulary has no bytes."""
    tokenizer = loaded(kind)
    known = Characters(tokenizer)
    parts = {token for token in range(len(tokenizer)) if known.part(token) is not None}
    if kind.startswith("byte_fallback"):
        assert len(parts) == 256
    elif kind == "byte_level":
        assert parts == {token for token in range(len(tokenizer)) if "\ufffd" in tokenizer.decode([token])}
    else:
        assert not parts
    assert bytes_of("<0xF0>") == b"\xf0"
    assert bytes_of("é") == b"\xe9"  # GPT-2's letter of that byte, and a letter of French


# vllm-project/vllm #44319: SentencePiece decodes a token by itself without its leading space.
@pytest.mark.parametrize("kind", KINDS)
def test_an_output_token_is_named_by_what_it_adds_behind_a_text(kind: str) -> None:
    tokenizer = loaded(kind)
    rendering = Rendering(tokenizer)
    contexts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the sea", "on", "the river ran")]
    lost = 0
    for token in range(len(tokenizer)):
        name = rendering.output_name(token)
        added = {tokenizer.decode([*ids, token]).removeprefix(tokenizer.decode(ids)) for ids in contexts}
        if name.startswith("<bytes "):
            assert added == {bytes.fromhex(name[7:-1]).decode(errors="replace")}
        else:
            assert added == {name}
        lost += tokenizer.decode([token]) != name and not name.startswith("<bytes ")
    # Control: by itself, it is otherwise in vocabularies that put a space in front of words.
    assert bool(lost) == (kind in ("byte_fallback", "unigram", "word_pieces", "whole_words"))
