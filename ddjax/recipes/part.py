"""What a part of a recipe is, and which values of its settings make sense. Nothing here imports jax."""

import dataclasses
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin, get_type_hints

from ddjax.errors import InputError


class Range(NamedTuple):
    """Which numbers make sense, and what to say of others."""

    holds: Callable[[float], bool]
    wanted: str


# Numbers become float32 and int32, for which others are zero, infinite, or one.
_LEAST, _MOST, _NEAR_ONE, _MOST_INT = 1e-30, 1e30, 0.999999, 2**31 - 1
_FLOAT = Range(lambda x: _LEAST <= x <= _MOST, f"a finite number above zero, from {_LEAST:g} to {_MOST:g}")
_INTEGER = Range(lambda x: 0 < x <= _MOST_INT, f"a finite number above zero, up to {_MOST_INT}")
NOT_NEGATIVE = Range(lambda x: x == 0 or _LEAST <= x <= _MOST, f"a finite number, zero or from {_LEAST:g} to {_MOST:g}")
DECAY = Range(lambda x: 0 <= x <= _NEAR_ONE, f"a number from 0 to {_NEAR_ONE}")
WHOLE = Range(lambda x: 0 <= x <= _MOST_INT, f"an integer from 0 to {_MOST_INT}")
MANY = Range(lambda x: 1 <= x <= 10_000, "an integer from 1 to 10000")
SEED = Range(lambda x: 0 <= x < 2**32, "an integer from 0 to 4294967295")


class Part:
    """A part of a recipe. Numbers are above zero, and such that float32 and int32 hold them, where `RANGES` does not say
    otherwise."""

    RANGES: ClassVar[Mapping[str, Range]] = {}

    def validate(self) -> None:
        """Raises InputError naming the first field whose value makes no sense."""
        hints = get_type_hints(type(self))
        for entry in dataclasses.fields(self):  # type: ignore[arg-type]  # every part is a dataclass
            flag = "--" + entry.name.replace("_", "-")
            _check(flag, getattr(self, entry.name), hints[entry.name], self.RANGES.get(entry.name))


def _check(flag: str, value: Any, hint: Any, within: Range | None) -> None:
    options = [] if get_origin(hint) is Literal else get_args(hint)
    if value is None and NoneType in options:
        return
    kind = next((option for option in options if option is not NoneType), hint)
    within = within or (_INTEGER if kind is int else _FLOAT)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise InputError(f"{flag} is {value!r}: choose one of {', '.join(get_args(kind))}")
    elif type(value) is not kind and not (kind is float and type(value) is int):
        raise InputError(f"{flag} is {value!r}: give a value of type {kind.__name__}")
    elif kind in (int, float) and not within.holds(value):
        raise InputError(f"{flag} is {value}: give {within.wanted}")
    elif value == "":
        raise InputError(f"{flag} is empty: leave it out, or give a value")
