"""What the LLM explainer is asked, in words. These texts enter the fingerprints: changing one changes explanations."""

from __future__ import annotations

import json
from typing import NamedTuple

from interp_assets.settings import LlmExplainer
from interp_assets.worked_examples import DEFAULT_LAYOUT, beginning
from resources.language_models.protocol import Message

INSTRUCTIONS = """\
You study what single units of a language model respond to. You are shown excerpts of text on which one unit was \
active. The tokens on which it was active are marked <<like this>>.

Say what the marked places have in common: a meaning, a topic, a kind of word, a grammatical role, or a pattern of \
what comes before or after. Be specific enough that somebody could find new places in other texts, and general enough \
to cover most of the excerpts. Do not list the excerpts and do not mention the marks."""

SHORT_ANSWER = """

Answer with a JSON object that holds one sentence: {"explanation": "..."}"""

STEPS = """

Work in steps, each in a line or two. First list the marked tokens that return most often. Then say what the excerpts \
share around them. If output tokens are given, say what they add. Last, conclude with one sentence.

Answer with a JSON object that holds the steps and the conclusion: {"steps": ["...", "..."], "explanation": "..."}"""

EXCERPT = "Excerpt {number}: {text}"
STRENGTHS = "Strengths: {strengths}"
OUTPUT_TOKENS = "Output tokens: {tokens}"

ACTIVATIONS_NOTE = "\n\nBelow each excerpt stand its marked tokens with their strength from 1 to 10."
PROMOTED_NOTE = "\n\nThe output tokens are those that the unit makes more likely to come next."
BLANKS_NOTE = "\n\nWhere white space itself is marked, a line break is written \\n and a tab \\t."
"Only where that is so."


class Worked(NamedTuple):
    """A worked example."""

    excerpts: tuple[tuple[str, str], ...]
    "Each with the strengths of its marked tokens."
    promoted: str
    steps: tuple[str, ...]
    explanation: str


EXAMPLES = (
    Worked(
        excerpts=(
            ("we followed the <<Danube>> as far as Vienna and then", "Danube (9)"),
            ("where the <<Rhine>> is joined by a smaller stream", "Rhine (10)"),
            ("the right to fish in the <<Tweed>> was sold to a", "Tweed (6)"),
        ),
        promoted="' river', ' valley', ' flows'",
        steps=(
            "Marked are Danube, Rhine and Tweed.",
            "The excerpts tell of travel, water and fishing.",
            "All are rivers.",
        ),
        explanation="names of rivers",
    ),
    Worked(
        excerpts=(
            ("and went home. <<However>>, the vote was put off until", "However (10)"),
            ("cost nothing at all. <<However>>, nobody wanted them, not even", "However (8)"),
            ("the plan was good. It failed, <<however>>, since the men", "however (3)"),
        ),
        promoted="',', ' the', ' it'",
        steps=("Marked is However, three times.", "Something unexpected follows each time.", "It is the word itself."),
        explanation='the word "however", most often at the beginning of a sentence',
    ),
    Worked(
        excerpts=(
            ("add the onions and <<fry>> them until they are soft", "fry (10)"),
            ("then let it <<simmer>> for ten minutes and stir", "simmer (9)"),
            ("<<bake>> on the middle shelf for about an hour", "bake (7)"),
        ),
        promoted="' until', ' for', ' gently'",
        steps=("Marked are fry, simmer and bake.", "The excerpts are from recipes.", "All say how food is heated."),
        explanation="verbs for ways of cooking",
    ),
)


def first_messages(explainer: LlmExplainer, blanks: bool = False) -> tuple[Message, ...]:
    """What stands before the excerpts of a latent.

    Args:
        blanks: white space is marked in them.
    """
    own = explainer.instructions
    worked = [asked_and_answered(each, explainer) for each in EXAMPLES] if own is None else []
    return beginning(system_message(explainer, blanks), worked, explainer.layout or DEFAULT_LAYOUT)


def asked_and_answered(example: Worked, explainer: LlmExplainer) -> tuple[str, str]:
    lines = []
    for number, (excerpt, strengths) in enumerate(example.excerpts, 1):
        lines.append(EXCERPT.format(number=number, text=excerpt))
        lines += [STRENGTHS.format(strengths=strengths)] if explainer.show_activations else []
    lines += [OUTPUT_TOKENS.format(tokens=example.promoted)] if explainer.promoted_tokens else []
    steps = {"steps": example.steps} if explainer.chain_of_thought else {}
    return "\n".join(lines), json.dumps(steps | {"explanation": example.explanation})


def system_message(explainer: LlmExplainer, blanks: bool = False) -> str:
    text = INSTRUCTIONS if explainer.instructions is None else explainer.instructions
    text += ACTIVATIONS_NOTE if explainer.show_activations else ""
    text += PROMOTED_NOTE if explainer.promoted_tokens else ""
    text += BLANKS_NOTE if blanks else ""
    return text + (STEPS if explainer.chain_of_thought else SHORT_ANSWER)
