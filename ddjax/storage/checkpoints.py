"""Checkpoints of a run: any pytree of arrays, written atomically and read back bit for bit."""

import functools
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import jax

from ddjax.errors import InputError, StorageError, one_line
from ddjax.storage.files import write_whole
from ddjax.storage.processes import agreed, first_process, together

Tree = TypeVar("Tree")
_OVERHEAD = 64 * 1024  # bytes of a checkpoint beside its arrays, about


class Checkpoints(Generic[Tree]):
    """Checkpoints of one run in a folder, the newest two kept.

    Each holds a digest of its files, written last: one without it was never finished, one that differs is damaged. Of several
    processes all save and restore together, into a folder that all of them see.
    """

    def __init__(self, folder: Path):
        import orbax.checkpoint as ocp  # here, because it takes a second and only runs need it

        self._folder = folder.absolute()
        self._ocp: Any = ocp

    @functools.cached_property
    def _manager(self) -> Any:
        """Orbax, which reads what lies in the folder when it is made, and so only when that was seen to be intact."""
        options = self._ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=False)
        return self._ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, tree: Tree) -> None:
        """Writes the state after `step`, unless it is there already.

        Raises:
          StorageError: it cannot be written; those before stay, and nothing of it is left.
        """
        if self._manager.latest_step() == step:
            return
        try:
            with together():
                agreed(lambda: self._make_sure_of_room(tree))
                self._manager.save(step, args=self._ocp.args.StandardSave(tree))
                agreed(lambda: write_whole(self._folder / str(step) / "digest", self._digest(step)))
        except (OSError, ValueError, RuntimeError) as error:  # the last two are TensorStore's for files
            for left in (self._folder / str(step), *self._folder.glob(f"{step}.*")) if first_process() else ():
                shutil.rmtree(left, ignore_errors=True)
            raise StorageError(
                f"the state after step {step} cannot be written to {self._folder}: {one_line(error)}"
            ) from error

    def restore(self, like: Callable[[int], Tree]) -> Tree:
        """The newest intact checkpoint, or `like(0)` where there is none; those that are not intact are deleted.

        Args:
          like: a tree of the structure, shapes and dtypes that a checkpoint of this step has.

        Raises:
          InputError: there are only damaged ones, or ones of something else. None is deleted then.
        """
        intact = agreed(self._cleared)
        if intact is None:
            return like(0)
        try:
            with together():
                return cast(Tree, self._manager.restore(intact, args=self._ocp.args.StandardRestore(like(intact))))
        except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
            raise InputError(
                f"the checkpoint of step {intact} in {self._folder} is of something else ({one_line(error)}): start again with "
                "another --out"
            ) from error

    def _cleared(self) -> int | None:
        """The newest step whose checkpoint is intact, or None; those that are not are deleted."""
        folders = [path for path in self._folder.glob("*") if path.name.isdecimal() and path.is_dir()]
        steps = sorted({int(path.name) for path in folders if path.name == str(int(path.name))}, reverse=True)
        good = [step for step in steps if self._is_intact(step)]
        intact = good[0] if good else None
        if intact is None and any(steps):
            raise InputError(
                f"the checkpoints in {self._folder} are damaged: put them back, or start again with another --out"
            )
        for other in sorted({*steps} - {*good}):
            sealed = (self._folder / str(other) / "digest").is_file()  # else it is one that was interrupted
            if sealed and other >= (intact or 0):
                print(f"the checkpoint of step {other} is damaged: going on from step {intact or 0}", flush=True)
            shutil.rmtree(self._folder / str(other))
        return intact

    def _is_intact(self, step: int) -> bool:
        digest = self._folder / str(step) / "digest"
        return digest.is_file() and digest.read_bytes() == self._digest(step).encode()

    def _make_sure_of_room(self, tree: Tree) -> None:
        """Raises OSError where there is none: TensorStore would say so in hundreds of lines."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + _OVERHEAD
        room = self._folder / "room.tmp"
        try:
            with room.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size) if hasattr(os, "posix_fallocate") else file.truncate(size)
        finally:
            room.unlink(missing_ok=True)

    def _digest(self, step: int) -> str:
        folder, total = self._folder / str(step), hashlib.sha256()
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("digest")):
            total.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return total.hexdigest()
