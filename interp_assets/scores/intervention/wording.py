"""What is asked about effects, in words. These texts enter the fingerprints: changing one changes the scores."""

from __future__ import annotations

INSTRUCTIONS = """\
You study what single units of a language model make it write. One unit was changed while the model read some texts. \
You are shown each text as far as the model had read it, and the tokens that the change made more probable to come \
next, each with how much its probability rose.

Say what the change makes the model write more of: a word or a kind of word, a topic, a tone, a form. What the texts \
themselves are about does not matter. Use a short phrase that could stand after "an amplified amount of".

Answer with a JSON object that holds this phrase: {"explanation": "..."}"""

TEXT = "Text {number}: {text}\nMore probable: {tokens}"

SCORED = '{passage}\n\nThe above passage contains an amplified amount of "'
"What the scorer reads before the explanation, whose log-probability is asked for."


def prompts_read() -> dict[str, str]:
    return {"instructions": INSTRUCTIONS, "text": TEXT, "scored": SCORED}
