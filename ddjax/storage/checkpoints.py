"""Checkpoints of a run: any pytree of arrays, written atomically and read back bit for bit."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import jax

from ddjax.errors import InputError, one_line
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

        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=False)
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self._args: Any = ocp.args

    def save(self, step: int, tree: Tree) -> None:
        """Writes the state after `step`, unless it is there already.

        Raises:
          OSError: it cannot be written; those before stay, and nothing of it is left.
        """
        if self._manager.latest_step() == step:
            return
        try:
            with together():
                agreed(lambda: self._make_sure_of_room(tree))
                self._manager.save(step, args=self._args.StandardSave(tree))
                agreed(lambda: write_whole(self._folder / str(step) / "digest", self._digest(step)))
        except (OSError, ValueError, RuntimeError) as error:  # the last two are TensorStore's for files
            for left in (self._folder / str(step), *self._folder.glob(f"{step}.*")) if first_process() else ():
                shutil.rmtree(left, ignore_errors=True)
            raise OSError(
                f"the state after step {step} cannot be written to {self._folder}: {one_line(error)}"
            ) from error

    def restore(self, like: Callable[[int], Tree]) -> Tree:
        """The newest intact checkpoint, or `like(0)` where there is none; newer ones that are not intact are deleted.

        Args:
          like: a tree of the structure, shapes and dtypes that a checkpoint of this step has.

        Raises:
          InputError: there are only damaged ones.
        """
        intact, others = agreed(self._newest)
        for step in others:
            self._manager.delete(step)
        if intact is None:
            return like(0)
        return cast(Tree, self._manager.restore(intact, args=self._args.StandardRestore(like(intact))))

    def _newest(self) -> tuple[int | None, list[int]]:
        """The newest step whose checkpoint is intact, None where there is none, and those that are in its way."""
        unfinished: list[int] = []
        damaged: list[int] = []
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            digest = self._folder / str(step) / "digest"
            if not digest.is_file() and step == steps[0]:  # the last one may have been interrupted
                unfinished.append(step)
            elif not digest.is_file() or digest.read_bytes() != self._digest(step).encode():
                damaged.append(step)
            else:
                for newer in damaged:
                    print(f"the checkpoint of step {newer} is damaged: going on from step {step}", flush=True)
                return step, [*unfinished, *damaged]
        if damaged:
            raise InputError(f"the checkpoints in {self._folder} are damaged: start again with another --out")
        return None, unfinished

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
