"""The settings file beside an SAE's weights, read with suspicion. Needs no torch."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from resources.errors import UnusableInput
from resources.strict_yaml import NotYaml, parsed

LARGEST_BYTES = 4 << 20
"Of a settings file; those of the field have a few thousand."
NEARLY = 0.85
"So alike, of 1, is a misspelt key to the right one."
MISSING = object()


class UnknownSae(UnusableInput):
    """No SAE of a supported format lies where the study says; the message says what was found instead."""


class Hooks(NamedTuple):
    """Where an SAE reads and writes, in its maker's words; None where its files do not say."""

    reads: str | None
    writes: str | None = None
    "Of a transcoder only, which reconstructs something else than what it reads."
    transcodes: bool = False
    "It reads what goes into a module and writes what that module puts out, whether or not its files name one."
    before_gain: bool = False
    "Whether `hook_normalized` of a LayerNorm is meant before gain and bias, as in TransformerLens since 3.0."


class Declared(NamedTuple):
    """What an SAE's settings promise."""

    architecture: str
    "In its maker's words."
    n_latents: int
    d_in: int
    d_out: int
    l0: float | None = None
    "Published mean number of latents that fire on a token."
    model: str | None = None
    "The subject model, as its maker calls it."
    bos: bool | None = None
    "Whether its training contexts began with BOS."


def number_in_name(file: Path, pattern: str) -> int:
    """Of the name of a file of weights the number that stands where its format's pattern has a `*`."""
    before, _, after = pattern.partition("*")
    return int(file.name.removeprefix(before).removesuffix(after))


class Config(dict[str, Any]):
    """The settings of one SAE; what they lack or hold wrongly is said with the file's name."""

    file: Path

    def integer(self, key: str, default: Any = MISSING) -> int:
        value = self.number(key, default)
        if value != int(value):
            raise UnknownSae(f"{self.file}: {key} is {value}, not a whole number")
        return int(value)

    def number(self, key: str, default: Any = MISSING) -> float:
        value = self.get(key, default)
        if value is MISSING or value is None:
            raise UnknownSae(f"{self.file}: {key} is missing")
        try:
            if isinstance(value, bool):
                raise ValueError(repr(value))
            number = float(value)
            if not math.isfinite(number):
                raise ValueError(repr(value))
        except (TypeError, ValueError, OverflowError) as error:
            raise UnknownSae(f"{self.file}: {key} is not a number ({error})") from None
        return number

    def text(self, key: str) -> str | None:
        """A name, None where it is not there or empty."""
        value = self.get(key)
        return value if isinstance(value, str) and value else None

    def section(self, key: str) -> Config:
        """A mapping within the settings; empty where it is not there."""
        value = self.get(key)
        return config_in(self.file, value if isinstance(value, dict) else {})

    def one_of(self, key: str, supported: Sequence[Any], default: Any = MISSING) -> Any:
        """
        Raises:
            UnknownSae: another value, or none and no default.
        """
        value = self.get(key, default)
        if value is MISSING:
            raise UnknownSae(f"{self.file}: {key} is missing")
        if value not in supported:
            shown = ", ".join(each if isinstance(each, str) else repr(each) for each in supported)
            raise UnknownSae(f"{self.file}: {key} {value!r} is not supported; supported: {shown}")
        return value

    def no_misspelling(self, meant: Collection[str]) -> None:
        """Makers' classes pass over a key that they do not know, and so would do the opposite of what was meant.

        Args:
            meant: keys that change what an SAE computes.

        Raises:
            UnknownSae: a key is nearly one of them.
        """
        for key in self:
            if key not in meant and (near := difflib.get_close_matches(key, meant, 1, NEARLY)):
                raise UnknownSae(f"{self.file}: {key} is no setting of SAEs; {near[0]} is")

    def only(self, known: Collection[str], maker: str) -> None:
        """
        Raises:
            UnknownSae: there is another setting that says anything.
        """
        if unknown := [key for key in sorted(set(self) - set(known)) if self[key]]:
            raise UnknownSae(
                f"{self.file}: {unknown[0]} {self[unknown[0]]!r} is not supported, {maker} has written no such setting; "
                f"supported: {', '.join(sorted(known))}"
            )


def config_in(file: Path, values: dict[str, Any]) -> Config:
    config = Config(values)
    config.file = file
    return config


def read_config(file: Path) -> Config:
    """
    Raises:
        UnknownSae: it cannot be read, is no JSON object or YAML mapping, holds a key twice, or is too large for settings.
    """
    try:
        if (size := file.stat().st_size) > LARGEST_BYTES:
            raise UnknownSae(
                f"{file}: {size:,} bytes are too many for the settings of an SAE (at most {LARGEST_BYTES:,})"
            )
        if file.suffix == ".yaml":
            values = parsed(file.read_bytes())
        else:
            values = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=one_of_each_key)
    except NotYaml as error:
        raise UnknownSae(f"{file}: {error}") from None
    except OSError as error:
        raise UnknownSae(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UnknownSae(f"{file}: not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise UnknownSae(f"{file}: not {'a mapping' if file.suffix == '.yaml' else 'a JSON object'}")
    return config_in(file, values)


def one_of_each_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """By itself the second of two equal keys would silently win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands there twice")
    return found
