"""YAML from people and from the net, read with suspicion."""

from __future__ import annotations

import datetime
from collections.abc import Hashable
from typing import Any

import yaml

MOST_VALUES = 100_000
"In a file; a dozen lines of nested aliases can stand for billions."


class StrictLoader(yaml.SafeLoader):
    """YAML in which all that Python or PyYAML would stumble over, or pass over in silence, is an error."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and written_out(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {MOST_VALUES:,} values")
        return node

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        node = super().compose_node(parent, index)
        # A node has its end once all that stands in it is read.
        if isinstance(event, yaml.AliasEvent) and node is not None and node.end_mark is None:
            problem = f"*{event.anchor} stands within what it names"
            mark: Any = event.start_mark  # in the stubs it may be another kind of mark
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            problem = f"{shown(node.value)} is no {kind}; if it is text, quote it"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                found = "list" if isinstance(key, yaml.SequenceNode) else "mapping"
                problem = f"a {found} stands where a key does; quote it if it is text, fill it in if it is a template"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            # By itself the second would silently win.
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f"{key.value} stands there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for when what its aliases name is written in their place.

    Args:
        known: takes up what was found, by `id`.
    """
    if id(node) not in known:
        inside = node.value if isinstance(node, yaml.CollectionNode) else []
        each = (part for entry in inside for part in (entry if isinstance(entry, tuple) else (entry,)))
        known[id(node)] = 1 + sum(written_out(part, known) for part in each)
    return known[id(node)]


class NotYaml(Exception):
    """A text that is no YAML; the message says in which line, and why."""


def parsed(content: bytes) -> Any:
    """
    Raises:
        NotYaml: it is none, or means something else than it seems to.
    """
    try:
        return yaml.load(content.decode("utf-8"), StrictLoader)  # noqa: S506 a SafeLoader
    except RecursionError:
        raise NotYaml("not valid YAML (it is nested too deep)") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise NotYaml(f"{where}not valid YAML ({problem})") from None


def shown(value: Any) -> str:
    """A value as it is written in YAML, cut where it is long."""
    if isinstance(value, datetime.date):
        return f"{value} (a date; quote it where it is text)"
    text = (
        {None: "empty", True: "true", False: "false"}[value] if value is None or value is True or value is False else ""
    )
    text = text or " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
