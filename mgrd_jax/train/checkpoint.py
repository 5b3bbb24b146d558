"""State on disk: whole or absent, and never half-written.

    folder/step_00000400/   one pytree, by orbax; renamed into place
"""

import json
import logging
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

_LOG = logging.getLogger(__name__)
_STEP = re.compile(r"step_(\d{8})")


class CheckpointError(ValueError):
  """A checkpoint that cannot be used; the message is one line."""


class MismatchError(CheckpointError):
  """A whole checkpoint, of another model or optimiser."""


def save(path, tree) -> None:
  """Writes a pytree of arrays to the folder `path`, atomically."""
  path = pathlib.Path(path).absolute()
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.exists():
    shutil.rmtree(path)
  with _writer() as checkpointer:
    checkpointer.save(path, args=ocp.args.PyTreeSave(tree))


def _writer() -> ocp.AsyncCheckpointer:
  """Writes as the arrays are.

  Weights hardly compress; to try takes eight times as long, and as much
  memory again.
  """
  return ocp.AsyncCheckpointer(
    ocp.PyTreeCheckpointHandler(use_compression=False)
  )


def shapes(path, like):
  """The tree that `save` wrote, as ShapeDtypeStructs; nothing is loaded.

  Raises:
    CheckpointError: there is none.
    MismatchError: it has other names or shapes than `like`.
  """
  path = _existing(path)
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.metadata(path).item_metadata.tree
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
      stored = checkpointer.metadata(path).item_metadata.tree
      if like is not None:
        # Asked first: the reader's own complaint names no parameter.
        _check(path, stored, like)
      target = jax.tree.map(_placed, stored if like is None else like)
      return checkpointer.restore(path, target)
  except CheckpointError:
    raise
  except Exception as error:
    reason = str(error).strip().splitlines()
    raise CheckpointError(
      f"{path}: cannot be restored ({reason[0] if reason else error!r})"
    ) from error


def _existing(path) -> pathlib.Path:
  path = pathlib.Path(path).absolute()
  if not path.is_dir():
    raise CheckpointError(f"{path}: no checkpoint here")
  return path


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
    self._folder, self._keep = pathlib.Path(folder).absolute(), keep
    self._scores = self._folder / "scores.json"
    self._writer = _writer()

  def save(self, step: int, tree, score: float | None = None) -> None:
    """Begins to write `tree` as the state after `step` steps."""
    self._finish()
    path = self._folder / f"step_{step:08d}"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    for torn in self._folder.glob("step_*.orbax-checkpoint-tmp*"):
      shutil.rmtree(torn)
    if score is not None:
      _write_json(self._scores, self._known() | {str(step): score})
    self._writer.save(path, args=ocp.args.PyTreeSave(jax.tree.map(_own, tree)))

  def close(self) -> None:
    """Waits for the last one."""
    self._finish()
    self._writer.close()

  def _known(self) -> dict[str, float]:
    if not self._scores.exists():
      return {}
    return json.loads(self._scores.read_text())

  def _finish(self) -> None:
    """Waits for what is being written, then removes what need not stay."""
    self._writer.wait_until_finished()
    there = steps(self._folder)
    scores = {at: self._known().get(str(at)) for at in there}
    known = [at for at in there if scores[at] is not None]
    best = min(known, key=scores.get, default=None)
    for old in there[: -self._keep]:
      if old != best:
        shutil.rmtree(self._folder / f"step_{old:08d}")


def _own(leaf):
  """A leaf whose bytes no later step can overwrite.

  On a CPU the host's view of an array is the array itself.
  """
  on_cpu = isinstance(leaf, jax.Array) and all(
    device.platform == "cpu" for device in leaf.devices()
  )
  return jnp.copy(leaf) if on_cpu else leaf


def _write_json(path: pathlib.Path, content: dict) -> None:
  part = path.with_name(f".{path.name}.part")
  part.write_text(json.dumps(content))
  part.replace(path)


def steps(folder) -> list[int]:
  """Steps that have a whole checkpoint, ascending."""
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    return []
  names = (_STEP.fullmatch(child.name) for child in folder.iterdir())
  return sorted(int(name[1]) for name in names if name)


def restore_latest(folder, like):
  """(step, tree) of the newest checkpoint that can be read, or (0, None).

  A torn one is passed over for the one before it, and said to be.

  Raises:
    MismatchError: the newest whole one is of another model; starting anew
      over it would lose a run in silence.
  """
  folder = pathlib.Path(folder)
  for step in reversed(steps(folder)):
    try:
      return step, restore(folder / f"step_{step:08d}", like)
    except MismatchError:
      raise
    except CheckpointError as error:
      _LOG.warning("%s; passed over for the one before it", error)
  return 0, None
