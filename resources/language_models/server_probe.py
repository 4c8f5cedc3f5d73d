"""What a server can do, found out by what it answers to a few small requests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resources.language_models.attempt import SENSELESS, Call
from resources.language_models.echoed import NotEchoed, read_echo
from resources.language_models.openai_fields import ODD, ODD_FORMS
from resources.language_models.openai_replies import Listed, likeliest
from resources.language_models.protocol import Form, GenerateRequest, Message
from resources.language_models.server_errors import NOT_FOR_US, Refused
from resources.language_models.token_pieces import TOKEN_ID
from resources.language_models.weighing import echoing

if TYPE_CHECKING:
    from resources.language_models.openai_engine import OpenAIEngine

QUESTION = (Message("user", "Is water wet? Answer Yes or No."),)
OTHER_QUESTION = (Message("user", "Is fire cold? Answer Yes or No."),)
"A model that is sure of itself lists Yes alone for the one and No alone for the other."
FIRST_QUESTION = (Message("system", "You answer in one word."), *QUESTION)
"With a system message, as nearly all prompts have one: there are chat formats without that role."
CHOICES = ("Yes", "No")
REAL_MASS = 0.01
"The probability with which each answer to so plain a question must be seen: a model that answers gives them far more."
KNOWN_TEXT = "Water is wet"
SHOWN = 5
"Of the likeliest tokens, where they are not what was asked for."


def look(engine: OpenAIEngine) -> None:
    """Set what the engine knows of its server.

    Raises:
        NotNow: the server does not answer, does not take the key or does not know the model.
    """
    find_chat(engine)
    for verb, why in (("choose", why_no_choice(engine)), ("log_likelihood", why_no_likelihood(engine))):
        if why is not None:
            engine.lacks[verb] = why  # type: ignore[index]
    engine.forms = forms_held(engine)


def find_chat(engine: OpenAIEngine) -> None:
    """Whether the server takes chats, with a system message, or plain prompts."""
    asking = GenerateRequest(FIRST_QUESTION, max_tokens=1)
    answer = engine.ask(engine.generating(asking))
    if isinstance(answer, Refused) and answer.status not in NOT_FOR_US:
        known, engine.accepted = engine.accepted, replace(engine.accepted, system_role=False)
        second = engine.ask(engine.generating(asking))
        answer, engine.accepted = (answer, known) if isinstance(second, Refused) else (second, engine.accepted)
    if isinstance(answer, Refused) and answer.status not in (401, 402, 403):
        engine.chat = False
        if not isinstance(engine.ask(engine.generating(asking)), Refused):
            answer = None
    if isinstance(answer, Refused):
        raise engine.server.not_for_us(answer)
    engine.server.probe = engine.generating(asking)


def why_no_choice(engine: OpenAIEngine) -> str | None:
    """None where the server is seen to list both answers, each with a probability that counts."""
    seen: set[str] = set()
    for question in (QUESTION, OTHER_QUESTION):
        listed = sensible(engine, engine.listing(question, likeliest), "it lists no likeliest tokens")
        if not isinstance(listed, Listed):
            return listed
        shown = ", ".join(repr(token) for token, _ in sorted(listed.tokens, key=lambda each: -each[1])[:SHOWN])
        if any(TOKEN_ID.fullmatch(token) for token, _ in listed.tokens):
            return f"it names tokens by their ids ({shown}), which nobody here can read"
        masses = {choice: listed.mass(choice) for choice in CHOICES}
        if sum(masses.values()) < REAL_MASS:
            return f"asked for Yes or No, it lists neither with a probability that counts: {shown}"
        seen |= {choice for choice, mass in masses.items() if mass >= REAL_MASS}
        if len(seen) == len(CHOICES):
            return None
    return f"asked for Yes or No, it lists {' and '.join(seen)} alone with a probability that counts: {shown}"


def why_no_likelihood(engine: OpenAIEngine) -> str | None:
    """None where the server gives a text that it is told to echo back, with log-probabilities."""

    def read(body: Any) -> Any:
        try:
            return read_echo(body, "", KNOWN_TEXT)
        except NotEchoed as error:
            return str(error)

    echo = sensible(
        engine, echoing(engine, KNOWN_TEXT, read), "it gives no prompt's tokens back with log-probabilities"
    )
    if isinstance(echo, str):
        return echo
    values = echo.log_probabilities[max(1, echo.before) :]
    if not values or not all(value is not None and value <= 0 for value in values) or not any(values):
        return f"its log-probabilities of a text's tokens are none: {values}"
    engine.before = echo.before
    return None


def forms_held(engine: OpenAIEngine) -> frozenset[Form]:
    """The forms that it holds replies to, seen by answers that nobody would give by himself."""
    found: set[Form] = set()
    for constraint in ODD_FORMS:
        asking = engine.generating(GenerateRequest(QUESTION, max_tokens=40, constraint=constraint))
        reply = sensible(engine, asking, "no reply that can be read")
        if not isinstance(reply, str) and ODD in reply.text:
            found.add(constraint.form)
    return frozenset(found)


def sensible(engine: OpenAIEngine, call: Call, senseless: str) -> Any:
    """The reply, or in words why there is none: a request that the server does not understand may be answered all the same.

    Args:
        senseless: what stands for a reply that cannot be read.
    """
    reply: Any = senseless
    for _ in range(2):  # a senseless reply may be an accident
        if reply == senseless:
            reply = engine.ask(forgiving(call, senseless))
    return reply.reason if isinstance(reply, Refused) else reply


def forgiving(call: Call, senseless: str) -> Call:
    """The same request, and what is asked in its place, with words for a reply that cannot be read."""

    def read(body: Any) -> Any:
        try:
            return call.read(body)
        except SENSELESS:
            return senseless

    def otherwise(refused: Refused) -> Any:
        other = call.otherwise(refused)
        return forgiving(other, senseless) if isinstance(other, Call) else other

    return call._replace(read=read, otherwise=otherwise)
