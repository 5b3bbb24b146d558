"""State on disk or on a store: whole or absent, and never half-written.

    folder/step_00000400/   one pytree, by orbax

Here a folder is renamed into place; on gs://, which knows no folders, the last
object to be written says that all are there.
"""

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from mgrd_jax import paths, processes

_LOG = logging.getLogger(__name__)
_STEP = re.compile(r"step_(\d{8})")
_WHOLE = "commit_success.txt"  # by orbax, the last that it writes


class CheckpointError(ValueError):
  """A checkpoint that cannot be used; the message is one line."""


class MismatchError(CheckpointError):
  """A whole checkpoint, of another model or optimiser."""


def save(path, tree) -> None:
  """Writes a pytree of arrays to the folder `path`, atomically.

  What stood there stays until its successor is whole; not so on a store,
  where nothing can be renamed.

  Raises:
    CheckpointError: it cannot be written, of a full disk for one.
  """
  path = paths.absolute(path)
  new = path if paths.is_remote(path) else path.with_name(f"{path.name}.new")
  _remove(new)
  processes.wait()
  with _writing(path), _writer() as checkpointer:
    checkpointer.save(new, args=ocp.args.PyTreeSave(tree))
    checkpointer.wait_until_finished()
  if new != path:
    _remove(path)
    if processes.writes():
      new.rename(path)
  processes.wait()


def _writer() -> ocp.AsyncCheckpointer:
  """Writes as the arrays are.

  Weights hardly compress; to try takes eight times as long, and as much
  memory again.
  """
  return ocp.AsyncCheckpointer(
    ocp.PyTreeCheckpointHandler(use_compression=False)
  )


def shapes(path, like=None):
  """The tree that `save` wrote, as ShapeDtypeStructs; nothing is loaded.

  Raises:
    CheckpointError: there is none, or it is torn.
    MismatchError: it has other names or shapes than `like`, where given.
  """
  path = _existing(path)
  with ocp.StandardCheckpointer() as checkpointer:
    tree = _stored(checkpointer, path)
  if like is not None:
    _check(path, tree, like)
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def restore(path, like=None):
  """Reads a pytree.

  Args:
    path: the folder that `save` wrote.
    like: a pytree of arrays or ShapeDtypeStructs that gives structure,
      shapes and shardings; without it, nested dicts of arrays.  What has no
      sharding comes to the default device, wherever it was saved from.

  Raises:
    CheckpointError: there is none, or it is torn.
    MismatchError: it is of another model; names the first difference.
  """
  path = _existing(path)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      stored = _stored(checkpointer, path)
      if like is not None:
        # Asked first: the reader's own complaint names no parameter.
        _check(path, stored, like)
      target = jax.tree.map(_placed, stored if like is None else like)
      return checkpointer.restore(path, target)
  except CheckpointError:
    raise
  except Exception as error:
    raise CheckpointError(
      f"{path}: cannot be restored ({_reason(error)})"
    ) from error


def is_whole(path) -> bool:
  """Whether a checkpoint is there, and all of it."""
  return ocp.utils.is_checkpoint_finalized(path)


def _existing(path) -> epath.Path:
  path = paths.absolute(path)
  if not is_whole(path):
    raise CheckpointError(f"{path}: no checkpoint here")
  return path


def _stored(checkpointer, path):
  """Names and shapes of what a checkpoint holds."""
  found = checkpointer.metadata(path).item_metadata
  if found is None:
    raise CheckpointError(f"{path}: cannot be restored (it is torn)")
  return found.tree


@contextlib.contextmanager
def _writing(path) -> Iterator[None]:
  try:
    yield
  except Exception as error:
    raise CheckpointError(
      f"{path}: cannot be written ({_reason(error)}); what was saved before is "
      "untouched, and the same command goes on from there"
    ) from error


def _reason(error: Exception) -> str:
  """Why, in one line; tensorstore tells it last, behind all its paths."""
  said = str(error).strip().splitlines() or [repr(error)]
  code = re.search(r"os_error_code='(\d+)'", said[0])
  return os.strerror(int(code[1])) if code else said[0]


def _remove(path: epath.Path) -> None:
  """Removes a checkpoint, which at no moment passes for a whole one.

  Of several processes the first does.
  """
  if not processes.writes():
    return
  if paths.is_remote(path):
    (path / _WHOLE).unlink(missing_ok=True)
    path.rmtree(missing_ok=True)
    return
  gone = path.with_name(f"{path.name}.gone")
  gone.rmtree(missing_ok=True)
  if path.exists():
    path.rename(gone).rmtree()


def _placed(leaf) -> jax.ShapeDtypeStruct:
  """What is to be read, and to which device."""
  placed = getattr(leaf, "sharding", None)
  if not isinstance(placed, jax.sharding.Sharding):
    device = jax.config.jax_default_device or jax.local_devices()[0]
    placed = jax.sharding.SingleDeviceSharding(device)
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed)


def _check(path, stored, like) -> None:
  """Raises MismatchError unless names and shapes are the same."""
  have, want = _shapes(stored), _shapes(like)
  for name in sorted(have.keys() | want.keys()):
    if have.get(name) != want.get(name):
      raise MismatchError(
        f"{path}: holds another model: {name} is {have.get(name, 'absent')} "
        f"there, the config asks for {want.get(name, 'none')}"
      )


def _shapes(tree) -> dict[str, tuple[int, ...]]:
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


class Steps:
  """The checkpoints of a running loop, written while it goes on.

  One is written at a time; `save` waits for the one before and returns once
  the arrays are copied, so that the state may be donated to the next step.
  The newest `keep` stay, and the one whose score is lowest.
  """

  def __init__(self, folder, *, keep: int = 1):
    self._folder, self._keep = paths.absolute(folder), keep
    self._path: epath.Path | None = None  # what is being written
    self._scores = self._folder / "scores.json"
    self._writer = _writer()
    # What an interrupted save, or removal, has left.
    whole = _by_step(self._folder).values()
    for path in _children(self._folder):
      if path.name.startswith("step_") and path not in whole:
        _remove(path)

  def save(self, step: int, tree, score: float | None = None) -> None:
    """Begins to write `tree` as the state after `step` steps.

    Raises:
      CheckpointError: it, or the one before, cannot be written.
    """
    self._finish()
    # A torn one that was passed over, say: it is no newer than this one.
    for at, path in _by_step(self._folder).items():
      if at >= step:
        _remove(path)
    if score is not None and processes.writes():
      paths.write(self._scores, json.dumps(self._known() | {str(step): score}))
    self._path = self._folder / f"step_{step:08d}"
    with _writing(self._path):
      owned = ocp.args.PyTreeSave(jax.tree.map(_own, tree))
      self._writer.save(self._path, args=owned)

  def check(self) -> None:
    """Raises CheckpointError if what was being written has failed."""
    with _writing(self._path):
      self._writer.check_for_errors()

  def close(self) -> None:
    """Waits for the last one."""
    try:
      self._finish()
    finally:
      self._writer.close()

  def _known(self) -> dict[str, float]:
    if not self._scores.exists():
      return {}
    return json.loads(self._scores.read_text())

  def _finish(self) -> None:
    """Waits for what is being written, then removes what it makes needless."""
    if self._path is None:
      return
    path, self._path = self._path, None
    with _writing(path):
      self._writer.wait_until_finished()
    there, scores = _by_step(self._folder), self._known()
    known = [at for at in there if str(at) in scores]
    best = min(known, key=lambda at: scores[str(at)], default=None)
    for old in sorted(there)[: -self._keep]:
      if old != best:
        _remove(there[old])


def _own(leaf):
  """A leaf whose bytes no later step can overwrite.

  On a CPU the host's view of an array is the array itself.
  """
  on_cpu = isinstance(leaf, jax.Array) and all(
    device.platform == "cpu" for device in leaf.devices()
  )
  return jnp.copy(leaf) if on_cpu else leaf


def steps(folder) -> list[int]:
  """Steps that have a whole checkpoint, ascending."""
  return sorted(_by_step(folder))


def _by_step(folder) -> dict[int, epath.Path]:
  """{step: its whole checkpoint}."""
  named = ((_STEP.fullmatch(path.name), path) for path in _children(folder))
  return {int(n[1]): path for n, path in named if n and is_whole(path)}


def _children(folder) -> list[epath.Path]:
  folder = paths.absolute(folder)
  return list(folder.iterdir()) if folder.is_dir() else []


def restore_latest(folder, like):
  """(step, tree) of the newest checkpoint that can be read, or (0, None).

  A torn one is passed over for the one before it, and said to be.

  Raises:
    MismatchError: the newest whole one is of another model; starting anew
      over it would lose a run in silence.
  """
  there = _by_step(folder)
  for step in sorted(there, reverse=True):
    try:
      return step, restore(there[step], like)
    except MismatchError:
      raise
    except CheckpointError as error:
      _LOG.warning("%s; passed over for the one before it", error)
  return 0, None
