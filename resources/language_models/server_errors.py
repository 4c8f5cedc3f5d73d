"""What a server says of a request that it does not answer, and whose fault that is: by structured fields first, by words second.

Servers behind a router answer 200 with an error in the body, or with a reply that ends in one; both are read as the
status that the error names. A quota that is used up comes as 429, as a rate that is too high does, and is told apart.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

BUSY = (408, 409, 425, 429, 503, 529)
NOT_FOR_US = (401, 402, 403, 404, 405)
"The key, the address or the model is wrong, and not the request, if all requests are answered so."
PAYMENT = 402

STATUS_OF_TYPE = {
    "authentication_error": 401,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
}
"Where an error names no status."
BROKEN_OFF = {"error", "insufficient_system_resource", "network_error"}
"Values of `finish_reason` that say that the reply was lost on its way."

USED_UP_CODE = re.compile(
    r"insufficient_(quota|balance|credits?|funds)|billing|payment_required|(quota|credits?)_exhausted"
)
USED_UP_WORDS = re.compile(
    r"per[- ]day|daily|monthly|insufficient (balance|credit|fund|quota)|exceeded your current quota|billing"
    r"|(out|run out) of credit|spending limit",
    re.IGNORECASE,
)
SOON_WORDS = re.compile(r"per[-_ ]?(second|minute)|(again|retry|reset)\w* in \W*\d|retry_?delay", re.IGNORECASE)
"Such a limit passes while one waits, whatever it is called."


class Refused(NamedTuple):
    status: int
    reason: str
    param: str | None = None
    "The field of the request that is at fault, where the server names one."


class ServerError(NamedTuple):
    status: int
    "By which it is judged: 402 for a quota that is used up, whatever the server calls it."
    told: int
    "The status that the server gives it."
    code: str
    "What the server calls it in `code` and `type`; empty where it does not."
    param: str | None
    words: str


def error_with_status(status: int, body: bytes) -> ServerError:
    """What a server says beside a status other than 200."""
    text = body.decode(errors="replace")
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    found = error_of(content) if isinstance(content, dict) else None
    if found is None:
        words = json.dumps(content) if isinstance(content, list) else content if isinstance(content, str) else text
        found = ServerError(status, status, "", None, words.strip() or "nothing")
    return judged(found._replace(status=status, told=status), text)


def error_in_reply(content: Any) -> ServerError | None:
    """The error that came with status 200, as the whole body or as the end of its first reply; None where there is none."""
    if not isinstance(content, dict):
        return None
    choice = next(iter(content.get("choices") or ()), None)
    if isinstance(choice, dict):
        told = choice.get("error")
        if not told and choice.get("finish_reason") not in BROKEN_OFF:
            return None
        found = error_of({"error": told or f"the reply ended with finish_reason {choice['finish_reason']}"})
    elif content.get("error") or content.get("object") == "error":
        found = error_of(content)
    else:
        return None
    return judged(found, json.dumps(content)) if found else None


def error_of(content: dict[str, Any]) -> ServerError | None:
    """An error in the shapes that are in use: {error: {message, code, type, param}}, {error: text}, {detail: ...}, {message, code}."""
    error = content.get("error") or content
    if not isinstance(error, dict):
        return ServerError(500, 500, "", None, error if isinstance(error, str) else json.dumps(error))
    words = error.get("message") or error.get("detail") or error
    code, kind, param = error.get("code"), error.get("type"), error.get("param")
    named = [each.lower() for each in (code, kind) if isinstance(each, str)]
    status = next((STATUS_OF_TYPE[each] for each in named if each in STATUS_OF_TYPE), 500)
    if isinstance(code, int | str) and str(code).isdecimal() and 400 <= int(code) < 600:
        status = int(code)
    # A router tells what it was told behind its own words.
    raw = (error.get("metadata") or {}).get("raw") if isinstance(error.get("metadata"), dict) else None
    said = words if isinstance(words, str) else json.dumps(words)
    said = f"{said}: {raw}" if isinstance(raw, str) and raw.strip() else said
    return ServerError(
        status, status, " ".join(named), param if isinstance(param, str) else None, said.strip() or "nothing"
    )


def judged(error: ServerError, whole: str) -> ServerError:
    """With the status of a quota that is used up, where that is what a 429 says.

    Args:
        whole: all that the server says, which may tell when it will answer again.
    """
    if error.status != 429:
        return error
    used_up = USED_UP_CODE.search(error.code) or (USED_UP_WORDS.search(error.words) and not SOON_WORDS.search(whole))
    return error._replace(status=PAYMENT) if used_up else error
