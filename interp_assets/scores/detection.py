"""Detection: is the latent active on this text? Nothing is marked."""

from __future__ import annotations

from interp_assets.scores.trials import TestExample, Trial

INSTRUCTIONS = """\
A unit of a language model is active on some texts and silent on others. You are given a description of what \
activates it, and a text. Decide whether the unit is active anywhere in the text.

Description: names of rivers
Text: we followed the Danube as far as Vienna and then
Active: Yes

Description: names of rivers
Text: the committee met again on the following day to
Active: No"""

QUESTION = "Description: {explanation}\nText: {text}\n\nIs the unit active in this text? Answer Yes or No."

LIST_INSTRUCTIONS = """\
A unit of a language model is active on some texts and silent on others. You are given a description of what \
activates it, and several numbered texts. For each text decide whether the unit is active anywhere in it. Any number \
of them may be active, none and all included.

Answer with one digit for each text in their order, 1 for active and 0 for silent, separated by commas, and nothing \
else."""

LIST_QUESTION = "Description: {explanation}\n\n{texts}\n\nAnswer with {count} digits."


def trials(examples: list[TestExample]) -> list[Trial]:
    return [Trial(each.example, each.activating, each.tokens) for each in examples]
