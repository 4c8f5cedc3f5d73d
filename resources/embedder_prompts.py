"""Which prompts sentence embedders put before texts, told from their settings alone. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROUTERS = ("Router", "Asym")
"Modules of sentence-transformers that run other layers for queries than for documents."


def prompts_by_role(prompts: Mapping[str, str | None], default: str | None) -> tuple[str, str]:
    """The prompts before documents and before queries.

    As sentence-transformers has it, but for a default prompt: that of a query never stands before a document, and where
    neither has a prompt of its own the default stands before both.

    Args:
        prompts: the model's, by name; empty ones and None count as none.
        default: the name of the one that stands before all texts, of which nothing else is known.
    """
    by_default = (prompts.get(default) or "") if default else ""
    query = prompts.get("query") or (by_default if default and "query" in default else "")
    document = next((text for name in ("document", "passage", "corpus") if (text := prompts.get(name))), "")
    return (document, query) if document or query else (by_default, by_default)


def treats_roles_apart(folder: Path) -> bool:
    """Whether an embedder treats queries otherwise than documents, or otherwise than by its default prompt."""
    settings = settings_in(folder / "config_sentence_transformers.json")
    prompts, default = settings.get("prompts"), settings.get("default_prompt_name")
    prompts = prompts if isinstance(prompts, dict) else {}
    before_all = (prompts.get(default) or "") if isinstance(default, str) else ""
    modules = settings_in(folder / "modules.json").get("list", [])
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules if isinstance(module, dict)]
    alike = prompts_by_role(prompts, default) == (before_all, before_all)
    return not alike or any(kind in ROUTERS for kind in kinds)


def settings_in(file: Path) -> dict[str, Any]:
    """What a JSON file holds, a list under `list`; nothing where it cannot be read, which loading the model will tell."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {"list": found} if isinstance(found, list) else {}
