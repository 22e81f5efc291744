"""What a part of a recipe is, and which values of its settings make sense. Nothing here imports jax."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin, get_type_hints

from ddjax.errors import InputError


class Range(NamedTuple):
    """Which numbers make sense, and what to say of others."""

    holds: Callable[[float], bool]
    wanted: str


_ABOVE_ZERO = Range(lambda x: 0 < x < math.inf, "a finite number above zero")
NOT_NEGATIVE = Range(lambda x: 0 <= x < math.inf, "a finite number, zero or above")
DECAY = Range(lambda x: 0 <= x < 1, "a number in [0, 1)")
WHOLE = Range(lambda x: 0 <= x < math.inf, "an integer, zero or above")
RATE = Range(lambda x: 1e-30 <= x < math.inf, "a finite number of at least 1e-30, or float32 takes it for zero")
MANY = Range(lambda x: 1 <= x <= 100_000, "an integer from 1 to 100000")
SEED = Range(lambda x: 0 <= x < 2**32, "an integer from 0 to 4294967295")


class Part:
    """A part of a recipe. Numbers are finite and above zero where `RANGES` does not say otherwise."""

    RANGES: ClassVar[Mapping[str, Range]] = {}

    def validate(self) -> None:
        """Raises InputError naming the first field whose value makes no sense."""
        hints = get_type_hints(type(self))
        for entry in dataclasses.fields(self):  # type: ignore[arg-type]  # every part is a dataclass
            flag = "--" + entry.name.replace("_", "-")
            _check(flag, getattr(self, entry.name), hints[entry.name], self.RANGES.get(entry.name, _ABOVE_ZERO))


def _check(flag: str, value: Any, hint: Any, within: Range) -> None:
    options = [] if get_origin(hint) is Literal else get_args(hint)
    if value is None and NoneType in options:
        return
    kind = next((option for option in options if option is not NoneType), hint)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise InputError(f"{flag} is {value!r}: choose one of {', '.join(get_args(kind))}")
    elif type(value) is not kind and not (kind is float and type(value) is int):
        raise InputError(f"{flag} is {value!r}: give a value of type {kind.__name__}")
    elif kind in (int, float) and not within.holds(value):
        raise InputError(f"{flag} is {value}: give {within.wanted}")
    elif value == "":
        raise InputError(f"{flag} is empty: leave it out, or give a value")
