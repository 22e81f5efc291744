"""A network from a user's own file."""

import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import flax.linen as nn

from ddjax.errors import InputError, one_line
from ddjax.models.model import Model, check_model, from_linen, from_nnx


def load_model(spec: str, input_shape: tuple[int, ...], num_classes: int) -> Model:
    """The network `spec`, "path/to/file.py:Name".

    Args:
      spec: a Python file, which is run, and the name in it of a Linen module or its class, the class of an NNX module (whose
        constructor takes `rngs`), a `Model`, or a function `(input_shape, num_classes)` that returns a Linen module or a
        `Model`. A class is given `num_classes` and `input_shape` where its constructor has parameters of those names.
      input_shape: shape of one example, without the batch axis.
      num_classes: K.

    Raises:
      InputError: no such file or name, a file that fails, or something else than a network for such examples and classes.
    """
    path, _, name = spec.rpartition(":")
    try:
        file = Path(path).expanduser().resolve()
    except RuntimeError as error:
        raise InputError(f"--model is {spec!r}: {error}") from error
    if file.suffix != ".py" or not file.is_file():
        raise InputError(f"there is no file {path or spec}: name a network as path/to/file.py:Name")
    with _blaming(file):
        found = getattr(_run(file), name, None)
    if found is None:
        raise InputError(f"{path} has no {name!r}: name a network in it as {path}:Name")
    with _blaming(file):
        model = _as_model(found, input_shape, num_classes)
    if model is None:
        raise InputError(
            f"{spec} is of type {type(found).__name__}, not a network: name a Linen module or its class, an NNX class, a "
            "ddjax.Model, or a function (input_shape, num_classes) that returns one"
        )
    check_model(model, input_shape, num_classes, name=spec)
    return model


def _as_model(found: Any, input_shape: tuple[int, ...], num_classes: int) -> Model | None:
    if isinstance(found, Model):
        return found
    if isinstance(found, nn.Module):
        return from_linen(found, input_shape)
    if inspect.isfunction(found):
        return _as_model(found(input_shape, num_classes), input_shape, num_classes)
    if not isinstance(found, type):
        return None
    known = {"num_classes": num_classes, "input_shape": input_shape}
    parameters = inspect.signature(cast(Any, found).__init__).parameters  # an NNX class itself tells none
    make: Any = partial(found, **{name: known[name] for name in parameters if name in known})
    if issubclass(found, nn.Module):
        return from_linen(make(), input_shape)
    from flax import nnx  # which takes long to import, and most never need it

    return from_nnx(lambda rngs: make(rngs=rngs)) if issubclass(found, nnx.Module) else None


def _run(file: Path) -> ModuleType:
    """The file as a module. What lies beside it can be imported from it, as from a script."""
    module = ModuleType(f"_own_{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # where dataclasses, which Linen's modules are, look their annotations up
    sys.path.insert(0, str(file.parent))
    try:
        exec(compile(file.read_bytes(), file, "exec"), module.__dict__)
    finally:
        sys.path.remove(str(file.parent))
    return module


@contextmanager
def _blaming(file: Path) -> Iterator[None]:
    """What the file raises as InputError that names the line."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything, and scripts exit
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        if isinstance(error, SyntaxError) and error.filename == str(file):
            lines.append(error.lineno)
        where = f"{file}, line {lines[-1]}" if lines else f"{file}"
        raise InputError(f"{where}: {one_line(error)}") from error
