"""What changed between two fingerprints, in words."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection
from typing import Any


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What changed between the parts of two fingerprints, one short sentence each."""
    found = []
    if before["code"] != after["code"]:
        found.append(f"code version {before['code']} -> {after['code']}")
    for key, old, new in changed_leaves(before["settings"], after["settings"]):
        told = old != new and len(f"{old!r}{new!r}") <= 80
        found.append(f"{key}: {old!r} -> {new!r}" if told else f"{key} changed")
    found += [f"{name} file changed" for name, _, _ in changed_leaves(before["files"], after["files"])]
    for name, old, new in changed_leaves(before["inputs"], after["inputs"]):
        found.append(f"{name} {'is new' if old is None else 'is no longer read' if new is None else 'changed'}")
    found += [
        f"{name}: {old or 'fine'} -> {new or 'fine'}"
        for name, old, new in changed_leaves(before.get("states", {}), after.get("states", {}))
    ]
    return found or ["changed"]


def in_short(reasons: Collection[str]) -> str:
    """Reasons in one line; those that differ in their partition only are told once."""
    without_key = [re.sub(r"\[[^]]*\]", "[*]", reason, count=1) for reason in reasons]
    alike = Counter(without_key)
    told = (
        f"{many.replace('[*]', '', 1)} ({alike[many]} partitions)" if alike[many] > 1 else reason
        for many, reason in zip(without_key, reasons, strict=True)
    )
    return "; ".join(dict.fromkeys(told))


def changed_leaves(before: Any, after: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    before, after = json.loads(json.dumps(before)), json.loads(json.dumps(after))
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for name in sorted(set(before) | set(after)):
            full = f"{key}.{name}" if key else name
            inner = changed_leaves(before.get(name), after.get(name), full)
            # A name that holds nothing may come or go too.
            found += inner or ([(full, None, None)] if (name in before) != (name in after) else [])
        return found
    return [] if before == after else [(key, before, after)]
