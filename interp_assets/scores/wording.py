"""What judges are asked, in words. These texts enter the fingerprints: changing one changes the scores that use it.

What many prompts have in common stands first and the example asked about last, with a word or two behind it, so that
an engine with a prefix cache computes little more than the example: `python -m benchmarks.prompt_layout`. How judges of
known answers fare with each layout: `python -m benchmarks.judge_prompts`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from interp_assets.examples.rendering import CLOSE, OPEN
from interp_assets.settings import JudgeScorer, Layout
from interp_assets.worked_examples import DEFAULT_LAYOUT, as_text, beginning
from resources.language_models.protocol import Message

MARKED = re.compile(f"{OPEN}(.+?){CLOSE}")


class Worked(NamedTuple):
    """A worked example."""

    explanation: str
    text: str
    answer: str


class Wording(NamedTuple):
    method: str
    "Which scorer asks, by its key in a study."
    instructions: str
    "The system message where one example stands in a prompt."
    examples: tuple[Worked, ...]
    question: str
    "With {explanation}, {text} and, behind it, {marked}: what is marked in the text."
    list_instructions: str
    list_question: str
    "With {explanation}, {texts} and {count}."
    layout: Layout = DEFAULT_LAYOUT

    def beginning(self) -> tuple[Message, ...]:
        """What stands before every single question."""
        return beginning(self.instructions, [(self.asking(each), each.answer) for each in self.examples], self.layout)

    def asking(self, example: Worked) -> str:
        marked = ", ".join(MARKED.findall(example.text))
        return self.question.format(explanation=example.explanation, text=example.text, marked=marked)


DETECTION = Wording(
    method="detection",
    instructions="""\
You are given a description and an excerpt of a text, which may begin and end anywhere. Say whether the excerpt \
contains what is described.

One place that fits the description is enough, wherever it stands. A text that merely treats a related subject does \
not fit. Where the description names a form, such as a word, an ending or a sign, only that form counts, whatever the \
text is about. Say Yes or No, nothing else.""",
    examples=(
        Worked("names of rivers", "we followed the Danube as far as Vienna and then", "Yes"),
        Worked("names of rivers", "rowed the boat to the other bank, where the water was", "No"),
        Worked("numbers written out as words", "fell asleep at once. Some forty years later the house", "Yes"),
        Worked("the end of a quotation", "the committee met again on the following day to speak", "No"),
    ),
    question="Does the following excerpt contain what is described?\n\nDescription: {explanation}\nText: {text}",
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
You are given a description and an excerpt of a text, which may begin and end anywhere, in which some words are marked \
<<like this>>. Say whether the marked words are what is described.

Look at the marked words themselves: what fits the description elsewhere in the excerpt does not make them right. A \
mark may cover part of a word or several words. Where the description names a form, such as a word, an ending or a \
sign, only that form counts, whatever the text is about. Say Yes or No, nothing else.""",
    examples=(
        Worked("names of rivers", "we followed the <<Danube>> as far as Vienna and then", "Yes"),
        Worked("names of rivers", "we <<followed>> the Danube as far as Vienna and then", "No"),
        Worked("numbers written out as words", "fell asleep at once. Some <<forty years>> later the house", "Yes"),
        Worked("the end of a quotation", '"I will not," she said, and <<left the>> room before he', "No"),
    ),
    # Small judges that have to find the marked words themselves say Yes wherever the description fits elsewhere.
    question="Are the marked words what is described?\n\nDescription: {explanation}\nText: {text}\nMarked: {marked}",
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
    """The method's texts, with the study's own instructions where it has some: they bring their own examples."""
    wording = WORDINGS[method]._replace(layout=scorer.layout or DEFAULT_LAYOUT)
    own = scorer.instructions
    return wording if own is None else wording._replace(instructions=own, examples=(), list_instructions=own)


def prompts_read(method: str, scorer: JudgeScorer) -> dict[str, str]:
    """The texts that a scorer's protocol uses."""
    wording = wording_of(method, scorer)
    single = {"instructions": as_text(wording.beginning()), "question": wording.question}
    lists = {"list_instructions": wording.list_instructions, "list_question": wording.list_question}
    return single | lists if scorer.list_sizes else single if scorer.protocol == "single" else lists
