"""Checkpoints of a run: written asynchronously, every file checked before it is read.

A step is a folder `<step>/` that is renamed into place when all of it is written. Its
`manifest.json` holds what the caller said of the step (`meta`), path, dtype and shape
of every array, and size and checksum of every file: orbax casts dtypes silently, and
reads a flipped byte as another number.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from lm import manifest
from lm.manifest import CorruptCheckpoint
from lm.signals import shield

WRITING = ".orbax-checkpoint-tmp"
DELETING = ".deleting"
LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")  # written after the manifest


class SaveFailed(RuntimeError):
    """A step could not be written; it is not listed."""


def steps_of(folder: Path) -> list[int]:
    """Committed steps of a folder of checkpoints, ascending."""
    if not folder.exists():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


class Checkpoints:
    """The steps of one folder, the newest `keep` of them kept. One writer at a time.

    Building it and reading from it change nothing on disk; `restore_latest`, `save` and
    `ensure` are for the trainer, which holds `workdir_lock`.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least one checkpoint must be kept")
        self.folder, self.keep = Path(folder).absolute(), keep
        self._pending: dict | None = None  # manifest of the step being written
        self._orbax = ocp.AsyncCheckpointer(
            ocp.PyTreeCheckpointHandler(),
            async_options=ocp.options.AsyncOptions(
                post_finalization_callback=self._write_manifest
            ),
        )

    def steps(self) -> list[int]:
        """Committed steps, ascending."""
        return steps_of(self.folder)

    def latest(self) -> int | None:
        """The newest committed step, or None."""
        return max(self.steps(), default=None)

    def save(self, step: int, state: Any, meta: dict) -> None:
        """Start writing a pytree of jax arrays; they may be donated once this returns.

        Waits for the save before. `meta` must survive JSON. Raises SaveFailed for this
        save or the one before, ValueError if the step exists.
        """
        with shield():
            self.wait()
            if step in self.steps():
                raise ValueError(f"step {step} is already saved in {self.folder}")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            arrays = flatten(state)
            meta = json.loads(json.dumps(meta))
            # orbax refuses arrays without elements; restoring needs only their shape.
            args = ocp.args.PyTreeSave({p: x for p, x in arrays.items() if x.size})
            self._pending = {"step": step, "meta": meta, "tree": describe(arrays)}
            try:
                self._orbax.save(self.folder / str(step), args=args)
            except Exception as error:
                self._failed(error)

    def wait(self) -> None:
        """Until nothing is being written; SaveFailed if that step is not committed."""
        with shield():
            try:
                self._orbax.wait_until_finished()
            except Exception as error:
                self._failed(error)
            if self._pending is None:
                return
            if self._pending["step"] not in self.steps():
                self._failed("the step was not committed")
            self._pending = None
            for step in self.steps()[: -self.keep]:
                path = self.folder / str(step)
                path.rename(path.with_suffix(DELETING))
            self._sweep()

    def ensure(self, step: int, state: Any, meta: dict) -> None:
        """Return with `step` committed, written now unless it was before.

        The last save of a run and the one after a signal. A failure of an earlier step
        is reported on stderr and does not cost this one.
        """
        with shield():
            try:
                self.wait()
            except SaveFailed as error:
                print(f"WARNING: {error}", file=sys.stderr, flush=True)
            if step not in self.steps():
                self.save(step, state, meta)
                self.wait()

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict]:
        """(state, meta) of a step, on the shardings of a tree of ShapeDtypeStruct.

        Raises CorruptCheckpoint, or ValueError where path, shape or dtype differ.
        """
        saved = self._verify(step)
        return self._read(step, saved, abstract_state, ""), saved["meta"]

    def restore_params(self, step: int, abstract: Any, path: str = "params") -> Any:
        """As `restore`, of all below one path of the state, whatever else it has."""
        return self._read(step, self._verify(step), abstract, f"{path}/")

    def restore_latest(self, abstract_state: Any) -> tuple[int, Any, dict] | None:
        """(step, state, meta) of the newest good step; None if none was ever saved.

        A damaged step is renamed to `<step>.bad`, said on stderr, and the one before is
        used; if all are damaged, CorruptCheckpoint: never a silent new start.
        """
        self.wait()
        self._sweep()
        for step in reversed(self.steps()):
            try:
                return step, *self.restore(step, abstract_state)
            except CorruptCheckpoint as error:
                bad = self.folder / f"{step}.bad"
                while bad.exists():
                    bad = bad.with_name(bad.name + "+")
                (self.folder / str(step)).rename(bad)
                print(f"WARNING: {error}; now {bad}", file=sys.stderr, flush=True)
        if bad := sorted(p.name for p in self.folder.glob("*.bad*")):
            raise CorruptCheckpoint(
                f"every checkpoint in {self.folder} is damaged ({', '.join(bad)}); "
                "delete that folder to start from the beginning"
            )
        return None

    def close(self) -> None:
        """Wait, then end orbax's threads; SaveFailed as in `wait`."""
        with shield():
            try:
                self.wait()
            finally:
                self._orbax.close()

    def _failed(self, error) -> None:
        step, self._pending = self._pending["step"], None
        shutil.rmtree(self.folder / f"{step}{WRITING}", ignore_errors=True)
        message = f"step {step} could not be saved in {self.folder}: {error}"
        raise SaveFailed(message) from (error if isinstance(error, Exception) else None)

    def _sweep(self) -> None:
        """Remove what a killed save or deletion left."""
        for suffix in (WRITING, DELETING):
            for path in self.folder.glob(f"*{suffix}*"):
                shutil.rmtree(path)

    def _write_manifest(self) -> None:
        """Called by orbax's thread when all files are written, before the rename."""
        folder = self.folder / f"{self._pending['step']}{WRITING}"
        manifest.write(folder, self._pending, but=LATER)

    def _verify(self, step: int) -> dict:
        if step not in self.steps():
            raise ValueError(f"no step {step} in {self.folder}; it has {self.steps()}")
        return manifest.verify(self.folder / str(step))

    def _read(self, step: int, saved: dict, abstract: Any, prefix: str) -> Any:
        """A tree like `abstract`, whose paths in the checkpoint start with `prefix`."""
        folder = self.folder / str(step)
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        leaves = {
            prefix + path: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=x.sharding or one
            )
            for path, x in flatten(abstract).items()
        }
        tree = {p: x for p, x in saved["tree"].items() if p.startswith(prefix)}
        check_fit(folder, tree, describe(leaves))
        items = {path: x for path, x in leaves.items() if x.size}
        restore_args = ocp.checkpoint_utils.construct_restore_args(items)
        args = ocp.args.PyTreeRestore(items, restore_args, partial_restore=True)
        arrays = self._orbax.restore(folder, args=args)
        for path in leaves.keys() - items.keys():
            x = leaves[path]
            arrays[path] = jnp.zeros(x.shape, x.dtype, device=x.sharding)
        return jax.tree.unflatten(jax.tree.structure(abstract), map(arrays.get, leaves))


def check_fit(folder: Path, saved: dict, wanted: dict) -> None:
    """ValueError naming the first arrays whose path, dtype or shape differ."""
    paths = sorted(saved.keys() | wanted.keys())
    wrong = [p for p in paths if saved.get(p) != wanted.get(p)]
    if wrong:
        shown = (
            f"{p}: saved {saved.get(p, 'nothing')}, wanted {wanted.get(p, 'nothing')}"
            for p in wrong[:5]
        )
        raise ValueError(
            f"checkpoint {folder} does not fit: {len(wrong)} of {len(paths)} arrays "
            f"differ ({'; '.join(shown)}). Use the config it was saved under, or "
            "another workdir"
        )


def flatten(tree: Any) -> dict[str, Any]:
    """{"params/units/...": leaf} in the tree's order; ValueError if two paths agree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    flat = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}
    if len(flat) != len(leaves):
        raise ValueError("two arrays of the state have the same path: rename one")
    return flat


def describe(arrays: dict[str, Any]) -> dict[str, list]:
    """{path: [dtype, shape]} in JSON's types."""
    return {path: [str(x.dtype), list(x.shape)] for path, x in arrays.items()}
