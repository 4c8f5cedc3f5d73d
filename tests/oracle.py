"""A language model that answers by rule, at the outer edge: it reads our prompts as a model would and is always right.

It explains a latent by the words that are marked in every excerpt, and judges a text by whether the explained word is
in it (detection) or is exactly what is marked (fuzzing). It explains an effect by the token that rises most often, and
finds that explanation the more probable the more often its word stands in a passage. A text is the more probable the
more of its words an explanation named. It foresees activation on the explained word and nowhere else, and finds the one
text that lacks a word which all others have. It writes texts that hold the explained word.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from resources.language_models.protocol import (
    Capability,
    ChooseRequest,
    Chosen,
    Form,
    Generated,
    GenerateRequest,
    Likelihood,
    LikelihoodRequest,
    Message,
    Usage,
    silent,
)
from resources.loaded_models import LoadedModels
from tests.tiny import VOCABULARY

COMPLAINT = "That cannot be used"
MARKED = re.compile(r"<<(.+?)>>")


class OracleEngine:
    name = "oracle"
    capabilities: frozenset[Capability] = frozenset({"generate", "choose", "log_likelihood"})
    forms: frozenset[Form] = frozenset()
    retries = 0
    identity = "oracle"

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def close(self) -> None:
        pass

    def generate(
        self, requests: Sequence[GenerateRequest], arrived: Callable[[int, Generated], None] = silent
    ) -> list[Generated]:
        replies = []
        for i, request in enumerate(requests):
            # Worked examples stand before the question, and a complaint about the first reply behind it.
            said = [message.content for message in request.messages if message.role == "user"]
            asked = next(each for each in reversed(said) if not each.startswith(COMPLAINT))
            self.prompts.append(asked)
            replies.append(Generated(self.answer(request.messages, asked), True, Usage(len(asked), 0, 5)))
            arrived(i, replies[i])
        return replies

    def answer(self, messages: Sequence[Message], asked: str) -> str:
        if "Excerpt 1:" in asked:
            words = {word for run in MARKED.findall(asked) for word in run.split()}
            return json.dumps({"explanation": f"the word {' or '.join(sorted(words))}"})
        if "More probable:" in asked:
            first = Counter(re.findall(r"^More probable: '([^']*)'", asked, flags=re.MULTILINE))
            return json.dumps({"explanation": f"the word {first.most_common(1)[0][0].strip()}"})
        explanation = asked.split("\n")[0]
        if "Tokens:\n" in asked:
            tokens = [json.loads(word) for word in re.findall(r"^\d+\. (.*)$", asked, flags=re.MULTILINE)]
            return json.dumps({"activations": [10 * self.fits(explanation, token) for token in tokens]})
        if asked.endswith(" texts."):
            (word, *_), count = explanation.split("the word ")[1].split(" or "), int(asked.split()[-2])
            return json.dumps({"texts": [f"{VOCABULARY[2 + place]} {word}" for place in range(count)]})
        texts = re.findall(r"^Text \d+: (.*)$", asked, flags=re.MULTILINE)
        return json.dumps({"answers": [int(self.fits(explanation, text)) for text in texts]})

    def fits(self, explanation: str, text: str) -> bool:
        words = set(explanation.split("the word ")[1].split(" or "))
        marked = [word for run in MARKED.findall(text) for word in run.split()]
        return set(marked) <= words if marked else bool(words & set(text.split()))

    def choose(
        self, requests: Sequence[ChooseRequest], arrived: Callable[[int, Chosen], None] = silent
    ) -> list[Chosen]:
        replies = []
        for i, request in enumerate(requests):
            asked = request.messages[-1].content
            self.prompts.append(asked)
            chosen = self.chosen(asked, len(request.choices))
            logs = tuple(-0.1 if place == chosen else -3.0 for place in range(len(request.choices)))
            replies.append(Chosen(logs, Usage(len(asked), 0, 0)))
            arrived(i, replies[i])
        return replies

    def chosen(self, asked: str, choices: int) -> int:
        """The place of the choice that it gives most probability to."""
        if "Odd one out:" in asked:
            texts = [set(text.split()) for text in re.findall(r"^Text \d+: (.*)$", asked, flags=re.MULTILINE)]
            return max(
                range(choices),
                key=lambda place: len(set.intersection(*texts[:place], *texts[place + 1 :]) - texts[place]),
            )
        explanation, text = re.findall(r"^(?:Description|Text): (.*)$", asked, flags=re.MULTILINE)
        if "Last token: " in asked:
            (token,) = re.findall(r"^Last token: (.*)$", asked, flags=re.MULTILINE)
            return 10 * self.fits(explanation, json.loads(token))
        return 0 if self.fits(explanation, text) else 1

    def log_likelihood(
        self, requests: Sequence[LikelihoodRequest], arrived: Callable[[int, Likelihood], None] = silent
    ) -> list[Likelihood]:
        replies = []
        for i, request in enumerate(requests):
            self.prompts.append(request.text)
            found = self.overlap(request.text, request.continuation)
            replies.append(Likelihood(found, 3, Usage(len(request.text), 0, 0)))
            arrived(i, replies[i])
        return replies

    def overlap(self, text: str, continuation: str) -> float:
        """log p: of a text behind a description, or of an explanation behind a passage."""
        passage, _, question = text.rpartition("\n\n")
        if question.startswith("Description: "):
            words = continuation.split()
            named = question.splitlines()[0].removeprefix("Description: ").removeprefix("the word ").split(" or ")
            return float(sum(word in named for word in words) - 3 * len(words))
        assert question.endswith('"')
        word = continuation.removeprefix("the word ")
        return passage.split().count(word) - 10.0


class OracleModels(LoadedModels):
    """Hands out the oracle wherever an engine is asked for, and real models otherwise."""

    def __init__(self, oracle: OracleEngine | None = None) -> None:
        super().__init__()
        self.oracle = oracle or OracleEngine()

    def get(self, identity: Any, load: Any) -> Any:
        return self.oracle if identity[0] == "engine" else super().get(identity, load)
