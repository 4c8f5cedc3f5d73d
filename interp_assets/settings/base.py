"""What all settings have in common: the marks *identity* and *operational*, and types that several sections use."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


def identity(default: Any = ..., allowed: str | None = None, where_set: bool = False, **constraints: Any) -> Any:
    """
    Args:
        allowed: says in words what a pattern says in signs.
        where_set: it counts only where it holds something; what was made before there was such a field stays valid.
    """
    extra: dict[str, Any] = {"mark": "identity", "allowed": allowed, "where_set": where_set}
    return Field(default, json_schema_extra=extra, **constraints)


def operational(default: Any = ..., allowed: str | None = None, **constraints: Any) -> Any:
    return Field(default, json_schema_extra={"mark": "operational", "allowed": allowed}, **constraints)


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def identity(self) -> dict[str, Any]:
        """The fields that decide what the results are, nested settings included, as plain JSON values."""
        found = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if mark(field) == "identity" and (value or not counts_where_set(field)):
                found[name] = value.identity() if isinstance(value, Settings) else value
        return found


def mark(field: Any) -> str | None:
    extra = field.json_schema_extra
    return extra.get("mark") if isinstance(extra, dict) else None


def counts_where_set(field: Any) -> bool:
    return bool(field.json_schema_extra.get("where_set"))


Dtype = Literal["float32", "bfloat16", "float16"]
Layout = Literal["turns", "system"]
"Where the worked examples of a prompt stand: as turns of user and assistant, or inside the system message."


def device() -> Any:
    """A field: where a model runs."""
    return operational("auto", allowed="auto, cpu, cuda, cuda:1, ...", pattern=r"^(auto|cpu|mps|(cuda|xpu)(:[0-9]+)?)$")
