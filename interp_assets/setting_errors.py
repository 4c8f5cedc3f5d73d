"""What is wrong with a setting, in one line: the key as it stands in the file, the value, and what is allowed."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from interp_assets.settings import Settings
from resources.errors import one_line
from resources.strict_yaml import shown


class StudyError(Exception):
    """A study file that cannot be used; the message is one line that names the key, the value and what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def listed(names: Iterable[Any]) -> str:
    names = list(names)
    return f"there are: {', '.join(map(str, names))}" if names else "there are none"


def first_twice(items: Iterable[Any]) -> Any:
    """The first of some names that stands there more than once, or None."""
    counts = Counter(items)
    return next((item for item, count in counts.items() if count > 1), None)


class Place(NamedTuple):
    """Where in the file a problem lies."""

    key: str
    wanted: Any
    "The type of what may stand there, constraints included."
    allowed: str | None
    "What may stand there, where the settings say it in words."
    parent: Any
    "The type of what holds it."


def first_problem(error: ValidationError, model: type[Settings]) -> str:
    """The first error of a validation, and how many other keys have one."""
    problems = error.errors()
    problem, first = problems[0], place_of(problems[0]["loc"], model)
    if isinstance(problem["input"], dict):
        # It is meant as the member of a union that is a mapping: what is wrong is said of that one.
        within = ((each, place_of(each["loc"], model)) for each in problems)
        problem, first = next((each for each in within if each[1].key.startswith(f"{first.key}.")), (problem, first))
    # What holds a wrong part is reported as wrong too, and each member of a union by itself.
    keys = {place_of(problem["loc"], model).key for problem in problems}
    others = [key for key in keys if not f"{first.key}.".startswith((f"{key}.", f"{key}["))]
    return sentence(problem, first) + (f" (and {len(others)} more)" if others else "")


def sentence(problem: Any, place: Place) -> str:
    if problem["type"] in ("extra_forbidden", "invalid_key"):  # the latter of a key that is no text, such as a number
        return f"{place.key}: unknown key; {listed(keys_of(place.parent))}"
    if problem["type"] == "missing":
        return f"{place.key}: missing; it must be {place.allowed or in_words(place.wanted)}"
    if problem["type"].startswith("union_tag"):
        value = problem["input"].get("kind") if isinstance(problem["input"], dict) else None
        found = "missing;" if value is None else f"{shown(value)}:"
        return f"{place.key}.kind: {found} it must be {' or '.join(map(repr, kinds_of(place.wanted)))}"
    return f"{place.key}: {shown(problem['input'])}: it must be {place.allowed or in_words(place.wanted)}"


def place_of(location: tuple[Any, ...], model: type[Settings]) -> Place:
    """Follow pydantic's location through the types; parts of it that only say which member of a union was tried go."""
    key, parent = "", None
    wanted: Any = model
    allowed: str | None = None
    for part in location:
        if part == "[key]":
            return Place(key.rpartition(".")[0], str, "text, since it is a name", parent)
        parent = wanted
        inner = base_of(wanted)
        if isinstance(inner, type) and issubclass(inner, Settings):
            key = f"{key}.{part}" if key else str(part)
            field = inner.model_fields.get(part)
            if field is None:
                return Place(key, None, None, inner)
            wanted, allowed = with_constraints(field), words_of(field)
        elif get_origin(inner) is tuple:
            key, wanted, allowed = f"{key}[{part}]", get_args(inner)[0], None
        elif get_origin(inner) is dict:
            key, wanted, allowed = f"{key}.{part}", get_args(inner)[1], None
        elif kinds := kinds_of(inner):
            wanted = kinds.get(part, wanted)
        elif mapping := [member for member in members_of(inner) if getattr(member, "__name__", None) == part]:
            wanted = mapping[0]
        else:
            break  # which member of a union was tried: all members are told together
    return Place(key, wanted, allowed, parent)


def with_constraints(field: FieldInfo) -> Any:
    """The field's type with its bounds, and with the mark of a discriminated union."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def words_of(field: FieldInfo) -> str | None:
    extra = field.json_schema_extra
    words = extra.get("allowed") if isinstance(extra, dict) else None
    return str(words) if words else None


def base_of(wanted: Any) -> Any:
    """The type without its constraints, and without `| None`."""
    if get_origin(wanted) is Annotated:
        return base_of(get_args(wanted)[0])
    members = members_of(wanted)
    return base_of(members[0]) if len(members) == 1 and members[0] is not wanted else wanted


def members_of(wanted: Any) -> list[Any]:
    """The members of a union, None left out; the type itself where it is none."""
    if get_origin(wanted) in (Union, types.UnionType):
        return [member for member in get_args(wanted) if member is not type(None)]
    return [wanted]


def kinds_of(wanted: Any) -> dict[str, type[Settings]]:
    """The members of a union of settings by their `kind`."""
    members = members_of(base_of(wanted))
    models = [member for member in members if isinstance(member, type) and issubclass(member, Settings)]
    return {
        get_args(model.model_fields["kind"].annotation)[0]: model for model in models if "kind" in model.model_fields
    }


def keys_of(model: Any) -> list[str]:
    """The keys that a user may write."""
    return [name for name, field in model.model_fields.items() if field.exclude is not True]


NAMES = {int: "whole number", float: "number", str: "text"}


def in_words(wanted: Any, many: bool = False) -> str:
    """A type as a user would say it: `a whole number, at least 1`, `one of 'a', 'b'`, `a list of texts`."""
    if get_origin(wanted) is Annotated:
        inner, *constraints = get_args(wanted)
        return in_words(inner, many) + "".join(map(bound_in_words, constraints))
    members = members_of(wanted)
    if len(members) > 1:
        if kinds := kinds_of(wanted):
            return f"{thing('mapping', many)} whose kind is {' or '.join(map(repr, kinds))}"
        return ", or ".join(in_words(member) for member in members)
    only = members[0]
    if get_origin(only) is Annotated:
        return in_words(only, many)
    if get_origin(only) is Literal:
        values = [repr(value) for value in get_args(only)]
        return f"one of {', '.join(values)}" if len(values) > 1 else values[0]
    if get_origin(only) is tuple:
        return f"a list of {in_words(get_args(only)[0], many=True)}"
    if get_origin(only) is dict:
        return f"a mapping from names to {in_words(get_args(only)[1], many=True)}"
    if isinstance(only, type) and issubclass(only, Settings):
        return f"{thing('mapping', many)} with the keys {', '.join(keys_of(only))}"
    if only is bool:
        return "true or false"
    return thing(NAMES.get(only, str(only)), many)


def thing(name: str, many: bool) -> str:
    return f"{name}s" if many else name if name == "text" else f"a {name}"


def bound_in_words(constraint: Any) -> str:
    for name, words in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
        if (bound := getattr(constraint, name, None)) is not None:
            return f", {words} {bound}"
    if getattr(constraint, "min_length", None):
        return ", not empty"
    return "".join(map(bound_in_words, getattr(constraint, "metadata", None) or ()))
