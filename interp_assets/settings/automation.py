"""What happens by itself while Dagster's daemon runs."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from interp_assets.settings.base import Settings, operational


def is_cron(line: str) -> bool:
    """Whether a line has the five fields of cron, in numbers: lists, ranges and steps of minute, hour, day, month, weekday."""
    fields = line.split()
    if len(fields) == 5 and re.fullmatch("30|31", fields[2]) and re.fullmatch("0?2", fields[3]):
        return False  # February never has that day
    return len(fields) == 5 and all(map(is_cron_field, fields, (0, 0, 1, 1, 0), (59, 23, 31, 12, 7)))


def is_cron_field(text: str, least: int, most: int) -> bool:
    for part in text.split(","):
        found = re.fullmatch(r"(?:\*|([0-9]{1,2})(?:-([0-9]{1,2}))?)(?:/([1-9][0-9]?))?", part)
        if found is None:
            return False
        first, last = found[1] or least, found[2] or found[1] or most
        if not least <= int(first) <= int(last) <= most:
            return False
    return True


def cron(line: str) -> str:
    if not is_cron(line):
        raise ValueError("not a cron line")
    return line


class Automation(Settings):
    """What happens by itself while Dagster's daemon runs."""

    enabled: bool | None = operational(None)
    "On when left out."
    schedule: Annotated[str, AfterValidator(cron)] | None = operational(
        "0 3 * * *", allowed="five fields of cron in numbers (UTC), as in '0 3 * * *', or null for none"
    )
    "When everything is checked, and what failed for reasons outside of its input is tried again."
    watch_seconds: int = operational(30, ge=1)
    "How often files are looked at and what is due is requested, at most."
