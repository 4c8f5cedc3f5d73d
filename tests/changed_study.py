"""Copies of a study file with some settings changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

LEFT_OUT = object()


def changed(file: Path, changes: dict[str, Any], name: str = "changed.yaml") -> Path:
    """A copy of a study beside it, with settings changed by their dotted keys."""
    settings = yaml.safe_load(file.read_text())
    for key, value in changes.items():
        *above, last = key.split(".")
        holder = settings
        for part in above:
            holder = holder[int(part)] if isinstance(holder, list) else holder.setdefault(part, {})
        if value is LEFT_OUT:
            del holder[last]
        else:
            holder[last] = value
    target = file.with_name(name)
    target.write_text(yaml.safe_dump(settings))
    return target
