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
