"""One request to a server, and whose fault it is where it is not answered."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import aiohttp

from resources.errors import one_line
from resources.language_models.server_errors import (
    BUSY,
    Refused,
    ServerError,
    error_in_reply,
    error_with_status,
)

LONGEST_SAID = 300
"Characters of what a server says of an error; cut when the key is out of it, of which no part may be left."
SENSELESS = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)
"What reading a body raises that is not what it should be."


def nothing_else(refused: Refused) -> None:
    """A refusal stands."""


class Call(NamedTuple):
    path: str
    content: dict[str, Any]
    read: Callable[[Any], Any]
    "Makes a reply of the body, or a Call where it takes one more; raises one of SENSELESS where that cannot be done."
    otherwise: Callable[[Refused], Any] = nothing_else
    "What takes the place of a refusal: a Call that is asked instead, a reply, or None."


@dataclass(frozen=True)
class Trouble:
    """What may pass."""

    why: str
    seconds: float | None = None
    "How long the server asks to be left alone."
    fault: bool = True
    "It may be the request's own; False where the server cannot be reached or says that it is busy."
    reached: bool = True
    busy: bool = False
    "The server says that it has too much to do."


async def attempt(
    session: aiohttp.ClientSession, base_url: str, call: Call, timeout_seconds: float, key: str | None
) -> Any:
    """What comes of one request: a reply (or the Call that it takes besides), Refused, or Trouble.

    Args:
        timeout_seconds: of the session, for what is said.
        key: kept out of what the server is quoted with.
    """
    try:
        async with session.post(
            f"{base_url}/{call.path}", data=json.dumps(call.content).encode(), allow_redirects=False
        ) as response:
            body = await response.read()
            if response.status != 200:
                said = error_with_status(response.status, body)
            else:
                content = json.loads(body)
                error_inside = error_in_reply(content)
                if error_inside is None:
                    return call.read(content)
                said = error_inside
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        reason = getattr(error, "os_error", None) or error
        return Trouble(
            f"it cannot be reached ({getattr(reason, 'strerror', None) or reason})", fault=False, reached=False
        )
    except TimeoutError:
        return Trouble(f"no reply within {timeout_seconds:g} s")
    except (aiohttp.ClientError, OSError):
        return Trouble("the connection broke")
    except SENSELESS:
        return Trouble("the reply is not what it should be")
    return fault(said, seconds_of(response.headers.get("Retry-After")), key)


def fault(error: ServerError, seconds: float | None, key: str | None) -> Trouble | Refused:
    reason = f"the server says {error.told}: {one_line(error.words.replace(key, '[key]') if key else error.words, LONGEST_SAID)}"
    if error.status in BUSY:
        return Trouble(reason, seconds, fault=False, busy=True)
    return Trouble(reason) if error.status >= 500 else Refused(error.status, reason, error.param)


def seconds_of(retry_after: str | None) -> float | None:
    """A number of seconds, or a date."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after or "").timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None
