"""What language models are asked by the methods that are neither judges nor interventions, in words.

These texts enter the fingerprints: changing one changes the scores that use it.
"""

from __future__ import annotations

UNRELATED = "Various unrelated sentences."
"Stands where an explanation does, and says nothing of the text that follows."

SURPRISAL = """\
Excerpts of texts, each behind a description of what is found in it.

Description: names of rivers
Excerpt:
we followed the Danube as far as Vienna and then the road

Description: various unrelated sentences
Excerpt:
asleep at once. The committee met again on the following

Description: numbers written out as words
Excerpt:
by the fire. Some forty years later the house was sold

Description: {explanation}
Excerpt:
"""

SIMULATION_LIST = """\
A unit of a language model is active on some tokens of a text and silent on the others. You are given a description of \
what activates it, and a text, token by token. Foresee how strongly the unit is active on each token, as a whole number \
from 0, silent, to 10, as strong as it gets. On most tokens it is silent. A token counts together with what comes \
before it, never with what comes after.

Answer with a JSON object that holds one number for each token in their order. For the description "names of rivers" \
and the tokens "we", " saw", " the", " Danube" it looks like this: {"activations": [0, 0, 0, 10]}"""

SIMULATION_LIST_QUESTION = "Description: {explanation}\n\nTokens:\n{tokens}\n\nAnswer with {count} numbers."

SIMULATION_LAST = """\
A unit of a language model is active on some tokens of a text and silent on the others. You are given a description of \
what activates it, and a text up to one of its tokens. Foresee how strongly the unit is active on that last token, from \
00, silent, to 10, as strong as it gets. On most tokens it is silent. Say the number in two digits, nothing else.

Description: names of rivers
Text: we followed the Danube
Last token: " Danube"
Strength: 10

Description: names of rivers
Text: we followed the Danube as far as
Last token: " as"
Strength: 00"""

SIMULATION_LAST_QUESTION = "Description: {explanation}\nText: {text}\nLast token: {token}\nStrength:"

INTRUDER = """\
You are shown numbered excerpts of texts, which may begin and end anywhere. All but one have something in common: a \
word, a kind of word, a topic, a form. One does not share it. Say the number of that one, nothing else.

Text 1: we followed the Danube as far as Vienna and then
Text 2: fell asleep at once, and the house was quiet
Text 3: where the Rhine is joined by a smaller stream
Odd one out: 2"""

INTRUDER_QUESTION = "{texts}\nOdd one out:"

GENERATION = """\
A unit of a language model is active on some texts and silent on others. You are given a description of what activates \
it. Write texts on which it is active: each of one or two sentences, in which what is described occurs at least once, \
as it would in a book, an article or a letter. Let the texts differ in subject and style. Do not talk about the \
description or the unit.

Answer with a JSON object that holds the texts. For the description "names of rivers" and two texts it looks like this: \
{"texts": ["We followed the Danube as far as Vienna.", "In spring the Rhine floods the lower meadows."]}"""

GENERATION_QUESTION = "Description: {explanation}\n\nWrite {count} texts."
