"""A language model that answers by rule, at the outer edge: it reads our prompts as a model would and is always right.

It explains a latent by the words that are marked in every excerpt, and judges a text by whether the explained word is
in it (detection) or is exactly what is marked (fuzzing). It explains an effect by the token that rises most often, and
finds that explanation the more probable the more often its word stands in a passage.
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
            asked = next(message.content for message in request.messages if message.role == "user")
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
            explanation, text = re.findall(r"^(?:Description|Text): (.*)$", asked, flags=re.MULTILINE)
            yes = self.fits(explanation, text)
            replies.append(Chosen((-0.1, -3.0) if yes else (-3.0, -0.1), Usage(len(asked), 0, 0)))
            arrived(i, replies[i])
        return replies

    def log_likelihood(
        self, requests: Sequence[LikelihoodRequest], arrived: Callable[[int, Likelihood], None] = silent
    ) -> list[Likelihood]:
        replies = []
        for i, request in enumerate(requests):
            self.prompts.append(request.text)
            passage, _, question = request.text.rpartition("\n\n")
            assert question.endswith('"')
            word = request.continuation.removeprefix("the word ")
            replies.append(Likelihood(passage.split().count(word) - 10.0, 3, Usage(len(request.text), 0, 0)))
            arrived(i, replies[i])
        return replies


class OracleModels(LoadedModels):
    """Hands out the oracle wherever an engine is asked for, and real models otherwise."""

    def __init__(self, oracle: OracleEngine | None = None) -> None:
        super().__init__()
        self.oracle = oracle or OracleEngine()

    def get(self, identity: Any, load: Any) -> Any:
        return self.oracle if identity[0] == "engine" else super().get(identity, load)
