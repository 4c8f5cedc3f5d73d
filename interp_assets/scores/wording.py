"""What judges are asked, in words. These texts enter the fingerprints: changing one changes the scores that use it."""

from __future__ import annotations

from typing import NamedTuple

from interp_assets.settings import JudgeScorer


class Wording(NamedTuple):
    instructions: str
    "The system message where one example stands in a prompt."
    question: str
    "With {explanation} and {text}."
    list_instructions: str
    list_question: str
    "With {explanation}, {texts} and {count}."


DETECTION = Wording(
    instructions="""\
A unit of a language model is active on some texts and silent on others. You are given a description of what \
activates it, and a text. Decide whether the unit is active anywhere in the text.

Description: names of rivers
Text: we followed the Danube as far as Vienna and then
Active: Yes

Description: names of rivers
Text: the committee met again on the following day to
Active: No""",
    question="Description: {explanation}\nText: {text}\n\nIs the unit active in this text? Answer Yes or No.",
    list_instructions="""\
A unit of a language model is active on some texts and silent on others. You are given a description of what \
activates it, and several numbered texts. For each text decide whether the unit is active anywhere in it. Any number \
of them may be active, none and all included.

Answer with a JSON object that holds one number for each text in their order, 1 for active and 0 for silent. For three \
texts it looks like this: {"answers": [0, 1, 0]}""",
    list_question="Description: {explanation}\n\n{texts}\n\nAnswer with {count} numbers.",
)

FUZZING = Wording(
    instructions="""\
A unit of a language model is active on some tokens of a text and silent on the others. You are given a description \
of what activates it, and a text in which some tokens are marked <<like this>>. Decide whether the marked tokens are \
those on which the unit is active.

Description: names of rivers
Text: we followed the <<Danube>> as far as Vienna and then
Right: Yes

Description: names of rivers
Text: we <<followed>> the Danube as far as Vienna and then
Right: No""",
    question="Description: {explanation}\nText: {text}\n\nAre the right tokens marked? Answer Yes or No.",
    list_instructions="""\
A unit of a language model is active on some tokens of a text and silent on the others. You are given a description \
of what activates it, and several numbered texts in which some tokens are marked <<like this>>. For each text decide \
whether the marked tokens are those on which the unit is active. Any number of them may be right, none and all included.

Answer with a JSON object that holds one number for each text in their order, 1 for right and 0 for wrong. For three \
texts it looks like this: {"answers": [0, 1, 0]}""",
    list_question="Description: {explanation}\n\n{texts}\n\nAnswer with {count} numbers.",
)

WORDINGS = {"detection": DETECTION, "fuzzing": FUZZING}


def wording_of(method: str, scorer: JudgeScorer) -> Wording:
    """The method's texts, with the study's own instructions where it has some."""
    wording = WORDINGS[method]
    own = scorer.instructions
    return wording if own is None else wording._replace(instructions=own, list_instructions=own)


def prompts_read(method: str, scorer: JudgeScorer) -> dict[str, str]:
    """The texts that a scorer's protocol uses."""
    wording = wording_of(method, scorer)._asdict()
    names = ("instructions", "question") if scorer.protocol == "single" else ("list_instructions", "list_question")
    return {name: wording[name] for name in names}
