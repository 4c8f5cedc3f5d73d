"""What judges are asked, in words. These texts enter the fingerprints: changing one changes the scores that use it.

What many prompts have in common stands first and the example asked about last, with a word or two behind it, so that
an engine with a prefix cache computes little more than the example: `python -m benchmarks.prompt_layout`.
"""

from __future__ import annotations

from typing import NamedTuple

from interp_assets.settings import JudgeScorer


class Wording(NamedTuple):
    method: str
    "Which scorer asks, by its key in a study."
    instructions: str
    "The system message where one example stands in a prompt."
    question: str
    "With {explanation} and {text}."
    list_instructions: str
    list_question: str
    "With {explanation}, {texts} and {count}."


DETECTION = Wording(
    method="detection",
    instructions="""\
A unit of a language model is active on some texts and silent on others. You are given a description of what \
activates it, and an excerpt of a text, which may begin and end anywhere. Decide whether the unit is active in it.

One place that fits the description is enough, wherever it stands. A text that merely treats a related subject does \
not fit. Where the description names a form, such as a word, an ending or a sign, only that form counts, whatever the \
text is about. Say Yes or No, nothing else.

Description: names of rivers
Text: we followed the Danube as far as Vienna and then
Active: Yes

Description: names of rivers
Text: rowed the boat to the other bank, where the water was
Active: No

Description: numbers written out as words
Text: fell asleep at once. Some forty years later the house
Active: Yes

Description: the end of a quotation
Text: the committee met again on the following day to speak
Active: No""",
    question="Is the unit active in this text?\n\nDescription: {explanation}\nText: {text}\nActive:",
    list_instructions="""\
A unit of a language model is active on some texts and silent on others. You are given a description of what \
activates it, and several numbered texts. For each text decide whether the unit is active anywhere in it. Any number \
of them may be active, none and all included.

Answer with a JSON object that holds one number for each text in their order, 1 for active and 0 for silent. For three \
texts it looks like this: {"answers": [0, 1, 0]}""",
    list_question="Description: {explanation}\n\n{texts}\n\nAnswer with {count} numbers.",
)

FUZZING = Wording(
    method="fuzzing",
    instructions="""\
A unit of a language model is active on some tokens of a text and silent on the others. You are given a description \
of what activates it, and an excerpt of a text, which may begin and end anywhere, in which some tokens are marked \
<<like this>>. Decide whether the marked tokens are those on which the unit is active.

Look at the marked tokens themselves: what fits the description elsewhere in the text does not make them right. A \
mark may cover part of a word or several words. Where the description names a form, such as a word, an ending or a \
sign, only that form counts, whatever the text is about. Say Yes or No, nothing else.

Description: names of rivers
Text: we followed the <<Danube>> as far as Vienna and then
Right: Yes

Description: names of rivers
Text: we <<followed>> the Danube as far as Vienna and then
Right: No

Description: numbers written out as words
Text: fell asleep at once. Some <<forty years>> later the house
Right: Yes

Description: the end of a quotation
Text: "I will not," she said, and <<left the>> room before he
Right: No""",
    question="Are the right tokens marked?\n\nDescription: {explanation}\nText: {text}\nRight:",
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
    single, lists = ("instructions", "question"), ("list_instructions", "list_question")
    names = single + lists if scorer.list_sizes else single if scorer.protocol == "single" else lists
    return {name: wording[name] for name in names}
