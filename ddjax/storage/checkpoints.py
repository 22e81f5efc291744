"""Checkpoints of a run: any pytree of arrays, written atomically and read back bit for bit."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import jax

from ddjax.errors import InputError, StorageError, one_line
from ddjax.storage.files import write_whole

Tree = TypeVar("Tree")
_OVERHEAD = 64 * 1024  # bytes of a checkpoint beside its arrays, about


class Checkpoints(Generic[Tree]):
    """Checkpoints of one run in a folder, the newest two kept.

    Each holds a digest of its files, written last: one without it was never finished, one that differs is damaged.
    """

    def __init__(self, folder: Path):
        import orbax.checkpoint as ocp  # here, because it takes a second and only runs need it

        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=False)
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self._args: Any = ocp.args

    def save(self, step: int, tree: Tree) -> None:
        """Writes the state after `step`, unless it is there already.

        Raises:
          StorageError: it cannot be written; those before stay, and nothing of it is left.
        """
        if self._manager.latest_step() == step:
            return
        try:
            self._make_sure_of_room(tree)
            self._manager.save(step, args=self._args.StandardSave(tree))
            write_whole(self._folder / str(step) / "digest", self._digest(step))
        except (OSError, ValueError, RuntimeError) as error:  # the last two are TensorStore's for files
            for left in (self._folder / str(step), *self._folder.glob(f"{step}.*")):
                shutil.rmtree(left, ignore_errors=True)
            raise StorageError(
                f"the state after step {step} cannot be written to {self._folder}: {one_line(error)}"
            ) from error

    def restore(self, like: Callable[[int], Tree]) -> Tree:
        """The newest intact checkpoint, or `like(0)` where there is none; newer ones that are not intact are deleted.

        Args:
          like: a tree of the structure, shapes and dtypes that a checkpoint of this step has.

        Raises:
          InputError: there are only damaged ones, or ones of something else. None is deleted then.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        intact = next((step for step in steps if self._is_intact(step)), None)
        if intact is None and any(steps):
            raise InputError(
                f"the checkpoints in {self._folder} are damaged: put them back, or start again with another --out"
            )
        for newer in steps if intact is None else steps[: steps.index(intact)]:
            if (self._folder / str(newer) / "digest").is_file():  # else it is one that was interrupted
                print(f"the checkpoint of step {newer} is damaged: going on from step {intact or 0}", flush=True)
            self._manager.delete(newer)
        if intact is None:
            return like(0)
        try:
            return cast(Tree, self._manager.restore(intact, args=self._args.StandardRestore(like(intact))))
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise InputError(
                f"the checkpoint of step {intact} in {self._folder} is of something else ({one_line(error)}): start again with "
                "another --out"
            ) from error

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
