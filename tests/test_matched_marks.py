"""Wrong fuzzing marks that stand on the same kinds of tokens as right ones: a reader who knows no latent is at chance."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.blind_classifier import told_apart
from benchmarks.marks import audit
from interp_assets.examples.rendering import HIDDEN
from interp_assets.examples.token_kinds import (
    BLANK,
    CAPITAL,
    DIGITS,
    LETTERS,
    LINE_BREAK,
    NOT_SHOWN,
    PART,
    PUNCTUATION,
    Kind,
    TokenKinds,
)
from interp_assets.scores.fuzzing import NOTHING_LIKE, UNMATCHED, Fuzzing, trials
from interp_assets.scores.marks import FURTHEST, matched_marks
from interp_assets.scores.trials import TestExample, Trial, test_examples
from interp_assets.study import Study
from resources.partition_files import Partition

WINDOW = 32
TEXTS = [" the", "ing", " Moby", ",", "7"]
SHARES = [0.5, 0.2, 0.1, 0.1, 0.1]
PER_TEXT = 20
"Tokens that read alike, so that a latent can fire on one and be silent on others."


def word(token: int) -> str:
    return TEXTS[token // PER_TEXT]


def latents(count: int, texts: int) -> dict[int, list[TestExample]]:
    """Each fires on a few tokens of one kind, punctuation or digits, in texts most of which is words."""
    draw = np.random.default_rng(0)
    found = {}
    for latent in range(count):
        own = (3 + latent % 2) * PER_TEXT + draw.choice(PER_TEXT, 3, replace=False)
        found[latent] = []
        for number in range(texts):
            tokens = draw.choice(len(TEXTS), WINDOW, p=SHARES) * PER_TEXT + draw.integers(0, PER_TEXT, WINDOW)
            tokens[draw.integers(0, WINDOW)] = draw.choice(own)
            fires = np.where(np.isin(tokens, own), draw.uniform(0.5, 1, WINDOW), 0.0)
            found[latent].append(TestExample(number, tokens.tolist(), fires.tolist(), True))
    return found


@pytest.fixture(scope="module")
def made() -> dict[str, dict[int, list[Trial]]]:
    kinds, examples = TokenKinds(word), latents(80, 16)
    return {
        name: {latent: trials(latent, each, len(each), 0.3, 0, by) for latent, each in examples.items()}
        for name, by in (("pattern", None), ("matched", kinds))
    }


def test_a_latent_blind_classifier_is_at_chance(made: dict[str, dict[int, list[Trial]]]) -> None:
    found = audit(made["matched"], TokenKinds(word))
    for what, each in found.items():
        assert each.low <= 0.5 + 0.03 and each.auroc < 0.55, what
    # The control: marks that are matched by position alone are given away by what they stand on.
    pattern = audit(made["pattern"], TokenKinds(word))
    assert pattern["token_kinds"].low > 0.75
    assert pattern["positions"].auroc == pytest.approx(0.5, abs=0.05)


def test_matched_marks_are_patterns_moved_to_silent_tokens_of_their_kinds() -> None:
    kinds, examples = TokenKinds(word), latents(8, 16)
    moves = []
    for latent, each in examples.items():
        patterns = [[value > 0 for value in one.activations] for one in each]
        placed = matched_marks(latent, each, patterns, kinds, 0)
        assert len({one.donor for one in placed.values()}) == len(placed) > 8
        for text, (donor, marks) in placed.items():
            right, wrong = np.flatnonzero(patterns[donor]), np.flatnonzero(marks)
            (move,) = {*(wrong - right).tolist()}
            moves.append(move)
            assert min(abs(move), WINDOW - abs(move)) <= FURTHEST
            assert not any(each[text].activations[place] for place in wrong)
            own, other = (
                kinds.of(np.array(each[number].tokens)[places]) for number, places in ((donor, right), (text, wrong))
            )
            assert (own == other).mean() >= 0.75
    assert len({*moves}) > 5
    assert abs(np.mean(moves)) < 1


def test_marks_without_their_like_are_left_out_with_a_reason() -> None:
    """The latent fires on every comma: no wrong mark can stand on one."""
    the, comma = 0, 3 * PER_TEXT
    examples = [
        TestExample(
            number, [the] * place + [comma] + [the] * (15 - place), [0.0] * place + [1.0] + [0.0] * (15 - place), True
        )
        for number, place in enumerate((2, 5, 9))
    ]
    found = trials(0, examples, 3, 0.3, 0, TokenKinds(word))
    assert {(trial.expected, trial.left_out) for trial in found} == {(True, UNMATCHED), (False, NOTHING_LIKE)}
    assert len(found) == 6
    assert not any(trial.left_out for trial in trials(0, examples, 3, 0.3, 0))


def test_draws_depend_on_seed_and_latent_alone() -> None:
    kinds, (examples,) = TokenKinds(word), latents(1, 12).values()
    once = trials(3, examples, 12, 0.3, 0, kinds)
    assert once == trials(3, examples, 12, 0.3, 0, TokenKinds(word))
    assert trials(3, [], 12, 0.3, 0, kinds) == []


def test_kinds_of_tokens() -> None:
    expected = {
        " the": (True, LETTERS),
        "ing": (False, LETTERS),
        " Moby": (True, CAPITAL),
        "\u00c9t\u00e9": (False, CAPITAL),
        " 19": (True, DIGITS),
        ",": (False, PUNCTUATION),
        " \n": (True, LINE_BREAK),
        "  ": (True, BLANK),
        "": (False, BLANK),
        "\ufffd": (False, PART),
    }
    assert {text: tuple(Kind.of(text)) for text in expected} == expected
    numbers = TokenKinds(word).of(np.array([[0, 3 * PER_TEXT], [HIDDEN, 1]]))
    assert numbers[0, 0] == numbers[1, 1] != numbers[0, 1] != NOT_SHOWN == numbers[1, 0]


def test_the_classifier_finds_what_is_there_and_nothing_else() -> None:
    draw = np.random.default_rng(1)
    group, labels = np.arange(600) // 10, draw.random(600) < 0.5
    noise = draw.normal(size=(600, 5))
    nothing = told_apart(noise, labels, group)
    assert nothing.low < 0.5 < nothing.high
    # Two normal variables one standard deviation apart: AUROC .76.
    shifted = told_apart(noise + labels[:, None] * [1, 0, 0, 0, 0], labels, group)
    assert shifted.low < 0.76 < shifted.high and shifted.high - shifted.low < 0.1
    # What holds within a latent only is not learnt: another latent's labels go the other way.
    turned = noise.copy()
    turned[:, 0] = np.where(group % 2, 1, -1) * np.where(labels, 1, -1)
    assert told_apart(turned, labels, group).auroc < 0.6


def test_a_study_asks_for_matched_marks(tiny: Study, tiny_tables: dict[str, Partition]) -> None:
    """By the subject model's own tokenizer; what is left out is so for the reason that fits."""
    settings = tiny.scorers.fuzzing
    assert settings is not None
    scorers = tiny.scorers.model_copy(update={"fuzzing": settings.model_copy(update={"marks": "matched"})})
    plain, matched = Fuzzing(tiny), Fuzzing(tiny.model_copy(update={"scorers": scorers}))
    assert plain.kinds is None and matched.kinds is not None
    table = tiny_tables["examples"].read("examples").filter(purpose="test", kind="activating")
    examples = test_examples(table, bool(tiny.corpus.bos))
    found = {name: [each for latent in examples for each in method.trials(latent, examples[latent])]
             for name, method in (("plain", plain), ("matched", matched))}  # fmt: skip
    assert len(found["plain"]) == len(found["matched"])
    assert [each for each in found["plain"] if each.expected] != found["matched"]
    assert {each.left_out for each in found["matched"]} <= {None, NOTHING_LIKE, UNMATCHED}
    right, wrong = (
        [matched.kinds.of(np.array(each.tokens)[np.array(each.marked)]).mean() for each in found["matched"]
         if each.left_out is None and each.expected == kind]
        for kind in (True, False)
    )  # fmt: skip
    assert len(right) == len(wrong) > 0
    assert np.mean(right) == pytest.approx(np.mean(wrong))
