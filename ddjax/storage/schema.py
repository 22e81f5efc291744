"""What a JSON object that lies on disk must be, checked in one place before anything of it is used."""

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

_DEEPEST, _LARGEST = 40, 2**63  # Python walks through what is nested by recursion, and has no greatest integer


class Kind(NamedTuple):
    """Which values are of a kind, and what to call them in a message."""

    holds: Callable[[Any], bool]
    wanted: str


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def is_figure(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


TEXT = Kind(lambda value: isinstance(value, str), "text")
COUNT = Kind(is_count, "a whole number")
FIGURE = Kind(is_figure, "a finite number")
OBJECT = Kind(lambda value: isinstance(value, dict), "a JSON object")


def list_of(kind: Kind, wanted: str) -> Kind:
    return Kind(lambda value: isinstance(value, list) and all(map(kind.holds, value)), wanted)


def or_none(kind: Kind) -> Kind:
    return Kind(lambda value: value is None or kind.holds(value), f"{kind.wanted} or null")


TEXTS = list_of(TEXT, "a list of text")
SHAPE = list_of(Kind(lambda value: is_count(value) and value > 0, "above zero"), "a list of whole numbers above zero")
# What `evaluation.measure.Evaluation.summary` says, under the name `accuracy` or `distilled`.
SCORES = {"accuracy_mean": FIGURE, "accuracy_std": FIGURE, "num_nets": COUNT}
BEFORE = {"accuracy_before_mean": FIGURE, "accuracy_before_std": FIGURE}


def parsed(text: str | bytes) -> dict[str, Any]:
    """A JSON object, whose integers are below 2^63, whose text can be written in UTF-8 and which is not nested very deep.

    Raises:
      ValueError: it is something else; its message says what, for the end of another.
    """
    try:
        held = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"it is no JSON ({str(error)[:80]})") from None
    if not isinstance(held, dict):
        raise ValueError(f"it is {brief(held)}, and not a JSON object")
    for value in _leaves(held, _DEEPEST):
        if isinstance(value, str) and not value.isprintable():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError("it has text that is not Unicode") from None
        if type(value) is int and abs(value) >= _LARGEST:
            raise ValueError(f"it has a number of {len(str(value))} digits")
    return held


def _leaves(value: Any, depth: int) -> Iterator[Any]:
    if depth == 0:
        raise ValueError("it is nested too deep")
    if isinstance(value, (dict, list)):
        for part in value if isinstance(value, list) else (*value, *value.values()):
            yield from _leaves(part, depth - 1)
    else:
        yield value


def check(held: Any, kinds: Mapping[str, Kind], needs: Collection[str] = ()) -> None:
    """Sees to it that what an object has under some names is of their kinds.

    Args:
      held: the object.
      kinds: by name, or by names one within the other, as "model/input_shape".
      needs: those that must not be missing where the object that they belong to is there.

    Raises:
      ValueError: the first that is missing or of another kind, in words.
    """
    for path, kind in kinds.items():
        *above, last = path.split("/")
        node = held
        for name in above:
            node = None if node is None else _object(node, path).get(name)
        if node is None and above:
            continue
        if last not in _object(node, path):
            if path in needs:
                raise ValueError(f"{path!r} is missing")
        elif not kind.holds(node[last]):
            raise ValueError(f"{path!r} is {brief(node[last])}, and not {kind.wanted}")


def _object(node: Any, path: str) -> dict[str, Any]:
    if not isinstance(node, dict):
        raise ValueError(f"what should hold {path!r} is {brief(node)}, and not a JSON object")
    return node


def brief(value: Any, limit: int = 60) -> str:
    """A value as messages quote it."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
