"""What the LLM explainer is asked, in words. These texts enter the fingerprints: changing one changes explanations."""

from __future__ import annotations

from interp_assets.settings import LlmExplainer

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

ACTIVATIONS_NOTE = "\n\nBelow each excerpt stand its marked tokens with their strength from 1 to 10."
PROMOTED_NOTE = "\n\nThe output tokens are those that the unit makes more likely to come next."
BLANKS_NOTE = "\n\nWhere white space itself is marked, a line break is written \\n and a tab \\t."
"Only where that is so."


def system_message(explainer: LlmExplainer, blanks: bool = False) -> str:
    text = INSTRUCTIONS if explainer.instructions is None else explainer.instructions
    text += ACTIVATIONS_NOTE if explainer.show_activations else ""
    text += PROMOTED_NOTE if explainer.promoted_tokens else ""
    text += BLANKS_NOTE if blanks else ""
    return text + (STEPS if explainer.chain_of_thought else SHORT_ANSWER)
