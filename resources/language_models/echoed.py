"""Where a continuation begins among the tokens of a prompt that a server gives back with their log-probabilities.

Tokens may hold parts of characters. Servers show those as U+FFFD, or as nothing until the token that completes the
character, which then shows all of it; some write pieces of the vocabulary instead of text. So offsets in the text say
little. What is known is the text itself: every way is followed in which the tokens, in their order, can cover its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from resources.language_models.openai_replies import count
from resources.language_models.token_pieces import TOKEN_ID, from_bytes_alphabet, from_sentencepiece

PART = "\ufffd"
"Shown for bytes that are no whole character."
LONGEST_SILENT = 8
"Bytes of a token that shows nothing: some whole characters and the beginning of one."
LONGEST_PART = 3
"Bytes that one U+FFFD stands for: all but one of a character of four."
SHOWN_AGAIN = 16
"Bytes of the tokens before, at most, that a token shows when it completes a character."


SAME_TOKEN = 0.5
"Nats by which the log-probability of one token differs at most between two prompts that begin alike, in bfloat16 too."


class NotEchoed(Exception):
    """The tokens are not those of the text; the message says what they are instead."""


class Cover(NamedTuple):
    """How far tokens reach."""

    hidden: int
    "Byte from which on nothing has been shown as text yet."
    end: int
    "Byte at which the last token ends."


Surface = str | bytes
"A token as it is shown, or its very bytes."


class Echo(NamedTuple):
    """The prompt's tokens as a server gives them back."""

    tokens: list[str]
    log_probabilities: list[float | None]
    "None for the first: nothing comes before it."
    before: int
    "How many of them stand before the text: BOS and the like."
    first: int
    last: int
    """Between which places, both included, the continuation begins; nearly always one and the same. A token that reaches
    over the boundary belongs to the continuation."""


def read_echo(body: Any, text: str, continuation: str, before: int | None = None) -> Echo:
    """
    Args:
        body: of a reply to a request with `echo`.
        before: how many tokens stand before any text; None where that is to be found out.

    Raises:
        NotEchoed: it does not hold the tokens of the prompt.
        KeyError, TypeError, ValueError: it makes no sense.
    """
    told = body["choices"][0]["logprobs"]
    tokens, values = list(told["tokens"]), list(told["token_logprobs"])
    whole, boundary = (text + continuation).encode(), len(text.encode())
    # One token is new, unless the server says otherwise.
    counts = dict.fromkeys((count((body.get("usage") or {}).get("completion_tokens"), 1), 1, 0))
    failed: NotEchoed | None = None
    for new in (each for each in counts if each <= len(tokens)):
        mine = tokens[: len(tokens) - new]
        try:
            ends = token_ends(mine, whole, before)
        except NotEchoed as error:
            failed = failed or error
            continue
        numbers = [None if value is None else float(value) for value in values[: len(mine)]]
        first = next((place for place, each in enumerate(ends) if max(each) > boundary), len(ends))
        last = next((place for place, each in enumerate(ends) if min(each) > boundary), len(ends))
        return Echo(mine, numbers, sum(each == {0} for each in ends), first, last)
    raise failed or NotEchoed("it gives none of the prompt's tokens")


def begins_alike(echo: Echo, text: Echo) -> bool:
    """Whether a prompt begins with the very tokens of a text: shown alike and equally probable.

    Args:
        text: of the text alone.
    """
    pairs = zip(echo.log_probabilities, text.log_probabilities, strict=False)
    return (
        echo.first <= len(text.tokens) <= echo.last
        and echo.tokens[: len(text.tokens)] == text.tokens
        and all(a is None or b is None or abs(a - b) < SAME_TOKEN for a, b in pairs)
    )


def token_ends(tokens: Sequence[str], whole: bytes, before: int | None = None) -> list[set[int]]:
    """For each token the bytes at which it can end.

    Raises:
        NotEchoed: in no way do the tokens cover these bytes.
    """
    if any(TOKEN_ID.fullmatch(token) for token in tokens):
        raise NotEchoed("it names tokens by their ids (token_id:...), which nobody here can read")
    for surfaces, lost_spaces in written(tokens):
        for skipped in range(3) if before is None else (before, before + 1):
            # Beyond what is known to stand before every text there may be a token that shows nothing.
            extra = tokens[before or 0 : skipped]
            if before is None or not "".join(extra).strip("\u2581 "):
                ends = covered(surfaces[skipped:], whole, lost_spaces)
                if ends is not None:
                    return [{0}] * skipped + ends
    shown = "".join(tokens)
    told = f"its tokens say {shown[:60]!r}" if tokens else "it gives none of the prompt's tokens"
    raise NotEchoed(f"it does not give the prompt back: {told}")


def written(tokens: Sequence[str]) -> Iterator[tuple[list[Surface], bool]]:
    """The ways in which the tokens may be written, and whether spaces may be missing."""
    yield [*tokens], False
    yield [token if (raw := from_bytes_alphabet(token)) is None else raw for token in tokens], False
    raws = [from_sentencepiece(token) for token in tokens]
    yield [*raws], False
    # SentencePiece puts a space before a text.
    first = next((place for place, raw in enumerate(raws) if raw.startswith(b" ")), 0)
    yield [*raws[:first], *(raw.removeprefix(b" ") for raw in raws[first : first + 1]), *raws[first + 1 :]], False
    # Its pieces have lost the space that they begin with where each was decoded by itself.
    yield [*tokens], True


def covered(surfaces: Sequence[Surface], whole: bytes, lost_spaces: bool) -> list[set[int]] | None:
    """Where each token can end if all together cover the bytes; None where they cannot."""
    steps: list[dict[Cover, set[Cover]]] = []
    now = {Cover(0, 0)}
    for left, surface in zip(reversed(range(len(surfaces))), surfaces, strict=True):
        step: dict[Cover, set[Cover]] = {}
        for cover in now:
            for further in onward(surface, cover, whole, lost_spaces):
                # Each token that is left needs a byte.
                if further.end + left <= len(whole):
                    step.setdefault(further, set()).add(cover)
        steps.append(step)
        now = set(step)
    alive = {cover for cover in now if cover.end == len(whole)}
    ends: list[set[int]] = []
    for step in reversed(steps):
        ends.append({cover.end for cover in alive})
        alive = set().union(*(step[cover] for cover in alive))
    return ends[::-1] if surfaces and all(ends) else None


def onward(surface: Surface, cover: Cover, whole: bytes, lost_spaces: bool) -> Iterator[Cover]:
    """How far a token can reach that comes next."""
    hidden, end = cover
    if isinstance(surface, bytes):
        if surface and whole.startswith(surface, end):
            yield Cover(end + len(surface), end + len(surface))
        return
    lead, part, _ = surface.partition(PART)
    tail = surface.rpartition(PART)[2].encode(errors="surrogatepass")
    if not tail:
        # Parts of characters, behind what stands whole before them in the same token.
        if whole.startswith(lead.encode(errors="surrogatepass"), end):
            begun = end
            end += len(lead.encode(errors="surrogatepass"))
            parts = surface.count(PART)
            longest = LONGEST_PART * parts if part else LONGEST_SILENT
            for further in range(end + max(1, parts), min(end + longest, len(whole)) + 1):
                if holds_parts(whole[begun:further]) or (lost_spaces and whole[begun:further] == b" "):
                    yield Cover(max(hidden, further - SHOWN_AGAIN), further)
        return
    latest = end + LONGEST_PART * surface.count(PART)
    for start in range(hidden, latest + 2):
        further = start + len(tail)
        lost_space = lost_spaces and start == latest + 1 and whole[start - 1 : start] == b" "
        if (start <= latest or lost_space) and further > end and whole.startswith(tail, start):
            yield Cover(further, further)


def holds_parts(token: bytes) -> bool:
    """Whether a token would not be shown as what it is: its bytes are no text by themselves, or are U+FFFD."""
    try:
        return PART in token.decode()
    except UnicodeDecodeError:
        return True
