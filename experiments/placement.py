"""Where arrays lie: a config's mesh, and all that crosses to it and back.

    config.mesh -> mesh;  host arrays --place--> devices --fetch--> host arrays

No mesh is one device, and then nothing is said of where things lie.  A mesh
changes no number but the last bits of sums.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from mgrd_jax import processes, sharding
from mgrd_jax.train import checkpoint, fit, steps

COLUMNS = 8  # of a batch there is a multiple of these


def mesh_of(sizes: Mapping[str, int]):
  """The mesh of config.mesh; None where it is of one device.

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  for name, size in sizes.items():
    if size < (name != "fsdp"):
      raise ValueError(f"config.mesh.{name}={size}: at least one is needed")
  if math.prod(sizes.values()) == 1 and processes.count() == 1:
    return None
  try:
    mesh = sharding.make_mesh(**sizes)
  except ValueError as error:
    raise ValueError(f"config.mesh: {error}") from None
  return mesh if mesh.size > 1 else None


def check(mesh, model) -> None:
  """Refuses a mesh that does not divide a model.

  A vocabulary is what the run's texts make it; undivided it lies whole on
  every device.

  Raises:
    ValueError: it does not; names what.
  """
  if mesh is None:
    return
  decoder = dataclasses.replace(model.decoder, vocab=0)
  sizes = dataclasses.replace(model, decoder=decoder)
  wrong = fit.undivided(sizes, dict(mesh.shape), 0, COLUMNS)
  if wrong:
    raise ValueError(f"config.mesh: {'; '.join(wrong)}")


def check_rows(mesh, config) -> None:
  """Refuses a mesh that does not divide the rows of a stage.

  Raises:
    ValueError: it does not; names the field.
  """
  names = ("audio_rows", "pair_rows", "text_rows", "rows")
  rows = {name: config[name] for name in names if name in config}
  if "pack" in config and config.pack.rows:
    rows = {"pack.rows": config.pack.rows}
  if "prompts" in config:
    rows["prompts, audio and text"] = sum(config.prompts.values())
  for name, count in rows.items():
    if count % parts(mesh):
      raise ValueError(
        f"config.mesh: data x fsdp={parts(mesh)} does not divide the {count} "
        f"rows of config.{name}"
      )


def parts(mesh) -> int:
  """Over how many devices the rows of a batch are split."""
  return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def filled(mesh, count: int) -> int:
  """Rows that hold `count` and that the mesh divides; some may be empty."""
  return -(-count // parts(mesh)) * parts(mesh)


def share(mesh, rows: int) -> tuple[int, int]:
  """(index, count): the part of a batch's rows that this process is to read.

  One of `count` equal parts, one behind the other; all, where rows are not
  split between processes.
  """
  if processes.count() == 1 or rows % parts(mesh):
    return 0, 1
  start, stop = sharding.own_rows(mesh, rows)
  return start // (stop - start), rows // (stop - start)


def place(
  mesh, tree, table: Mapping = sharding.DATA, part: tuple[int, int] = (0, 1)
):
  """Arrays of this host, or of other devices, on those of the mesh.

  Args:
    part: of `share`: the rows that `tree` holds; all by default, the same in
      every process.
  """
  if mesh is None:
    return tree
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      (len(x) * part[1], *x.shape[1:]) if part[1] > 1 else x.shape, x.dtype
    ),
    tree,
  )
  rest = sharding.shardings(mesh, shapes, table)
  if processes.count() == 1:
    return jax.device_put(tree, rest)
  return jax.tree.map(_spread, tree, shapes, rest)


def _spread(x, like, rest):
  """An array over all processes, of what each has of it."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return jax.device_put(x, rest)
  return jax.make_array_from_process_local_data(rest, np.asarray(x), like.shape)


def fetch(tree):
  """Arrays of the devices as arrays of this host, and of every other."""
  return jax.tree.map(_fetched, tree)


def _fetched(x) -> np.ndarray:
  if not isinstance(x, jax.Array) or x.is_fully_replicated:
    return np.asarray(x)
  if x.is_fully_addressable:
    return np.asarray(x)
  return multihost_utils.process_allgather(x, tiled=True)


def program(mesh, fn: Callable, **options) -> Callable:
  """Jits `fn`, which is traced and runs under the mesh."""
  jitted = jax.jit(fn, **options)
  if mesh is None:
    return jitted

  def run(*args):
    with jax.set_mesh(mesh):
      return jitted(*args)

  return run


# Half the compile time on a CPU, and a training step no slower (a decoding
# loop and the encoder are).  XLA refuses an option that it does not know, so
# this is for the version that it was tried with.
_HURRY = {(0, 10): {"xla_cpu_use_fusion_emitters": False}}


def training_step(mesh, fn: Callable, state, *, hurry: bool = True) -> Callable:
  """Jits (state, ...) -> (state, metrics): the state given is used up.

  The new one lies where `state` does, an example of it.
  """
  options: dict = {"donate_argnums": 0}
  if mesh is not None:
    options["out_shardings"] = (sharding.shardings(mesh, state), None)
  if hurry and jax.default_backend() == "cpu":
    options["compiler_options"] = _HURRY.get(jax.__version_info__[:2])
  return program(mesh, fn, **options)


def made(mesh, make: Callable, *args):
  """make(*args), every array of it born where weights rest."""
  if mesh is None:
    return jax.jit(make)(*args)
  rest = sharding.shardings(mesh, jax.eval_shape(make, *args))
  return program(mesh, make, out_shardings=rest)(*args)


def initial(mesh, params, tx):
  """Step 0 of training `params`, a TrainState, where they are."""
  if mesh is None:
    return steps.init_state(params, tx)
  return made(mesh, functools.partial(steps.init_state, tx=tx), params)


def restore(mesh, init) -> dict:
  """Parameters of an earlier stage's folder, on the devices.

  Raises:
    CheckpointError: there are none; names the folder.
  """
  if not init:
    raise ValueError("config.init is empty; give the folder of a stage")
  path = epath.Path(init) / "params"
  if mesh is not None:
    shapes = checkpoint.shapes(path)
    rest = sharding.shardings(mesh, shapes)
    like = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes,
      rest,
    )
    return checkpoint.restore(path, like)
  # What is read is pinned to a device.  Beside fresh optimiser state that is
  # not, a step's first call would differ from its second: two compilations.
  return jax.tree.map(
    lambda leaf: jnp.asarray(np.asarray(leaf)), checkpoint.restore(path)
  )
