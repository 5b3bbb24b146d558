"""The mesh, the one table, and the only place that names partitions.

    leaf name  --suffix-->  axis letters  --table-->  mesh axes

`WEIGHT` says how weights rest, `SAMPLE` how they lie while a policy is sampled
from, `DATA` how arrays compute.  Another strategy is another table.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)

# The last lie nearest to each other: what talks most within a layer.
AXES = ("data", "fsdp", "sequence", "tensor")
WEIGHT = {
  # What splits a row's tokens holds no weights twice either.
  "D": ("fsdp", "sequence"),
  "E": ("fsdp", "sequence"),
  "F": "tensor",
  "N": "tensor",
  "K": "tensor",
  "V": "tensor",
}
# How weights lie that are only read: no part of one has to be fetched.
SAMPLE = {letter: axis for letter, axis in WEIGHT.items() if axis == "tensor"}
DATA = {
  "B": ("data", "fsdp"),
  "T": "sequence",
  "N": "tensor",
  "K": "tensor",
  "F": "tensor",
  "V": "tensor",
}


def make_mesh(
  *,
  data: int = 1,
  fsdp: int = 0,
  sequence: int = 1,
  tensor: int = 1,
  devices: Sequence | None = None,
) -> Mesh:
  """A mesh over AXES.

  Args:
    data: copies of the weights; each works on rows of its own.
    fsdp: over how many devices rows are split; weights rest over these and
      over `sequence`; 0 takes all that are left.
    sequence: over how many a row's tokens are split, for long rows.
    tensor: over how many heads and hidden units are split.
    devices: all by default; those of a topology description, to compile for
      chips that are not here.

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  rest = data * sequence * tensor
  shape = (data, fsdp or max(len(devices) // rest, 1), sequence, tensor)
  if int(np.prod(shape)) != len(devices):
    raise ValueError(
      f"mesh {dict(zip(AXES, shape, strict=True))} needs "
      f"{int(np.prod(shape))} devices, there are {len(devices)}; give sizes "
      "that multiply to it"
    )
  # An axis of the torus is split where the sizes ask for it.
  layout = mesh_utils.create_device_mesh(
    shape, devices, allow_split_physical_axes=True
  )
  return Mesh(layout, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def suffix(path) -> str:
  """Axis letters of a leaf: what follows the last `_` of its last named key."""
  for key in reversed(path):
    name = getattr(key, "key", getattr(key, "name", None))
    if isinstance(name, str):
      tail = name.rsplit("_", 1)[-1]
      return tail if "_" in name and tail.isupper() else ""
  return ""


def spec(
  mesh: Mesh | AbstractMesh, axes: str, shape, table: Mapping
) -> PartitionSpec:
  """The partition of an array whose trailing axes are `axes`.

  A mesh axis is used once per array and only where it divides the
  dimension; the rest is replicated.
  """
  axes = axes[-len(shape) :] if shape else ""
  entries: list = [None] * (len(shape) - len(axes))
  used: set[str] = set()
  for letter, size in zip(axes, shape[len(entries) :], strict=True):
    rule = table.get(letter)
    names = (rule,) if isinstance(rule, str) else tuple(rule or ())
    names = tuple(n for n in names if n not in used and mesh.shape[n] > 1)
    if names and size % int(np.prod([mesh.shape[n] for n in names])) == 0:
      used.update(names)
      entries.append(names if len(names) > 1 else names[0])
    else:
      entries.append(None)
  return PartitionSpec(*entries)


def shardings(mesh: Mesh, tree, table: Mapping = WEIGHT):
  """A NamedSharding for every leaf, by the letters in the leaf's name.

  Serves parameters, optimiser state, batches, caches and rollouts alike.
  """

  def one(path, leaf):
    return NamedSharding(mesh, spec(mesh, suffix(path), leaf.shape, table))

  return jax.tree_util.tree_map_with_path(one, tree)


def uncovered(tree, table: Mapping = WEIGHT) -> list[str]:
  """Arrays of rank two or more that a table leaves whole, by their paths."""
  return [
    jax.tree_util.keystr(path, simple=True, separator=".")
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if len(leaf.shape) > 1 and not set(suffix(path)) & set(table)
  ]


def own_rows(mesh: Mesh, rows: int) -> tuple[int, int]:
  """(first, behind the last) of the rows that this process holds of a batch.

  Raises:
    ValueError: they are not one behind the other.
  """
  rest = NamedSharding(mesh, spec(mesh, "B", (rows,), DATA))
  spans = {
    (span.start or 0, rows if span.stop is None else span.stop)
    for (span,) in rest.addressable_devices_indices_map((rows,)).values()
  }
  start, stop = min(spans)[0], max(spans)[1]
  if sum(b - a for a, b in spans) != stop - start:
    raise ValueError(
      "the rows that a process holds are not one behind the other; let data "
      "and fsdp be the mesh's only sizes across hosts"
    )
  return start, stop


def of_layer(stack: jax.sharding.Sharding) -> jax.sharding.Sharding:
  """How a layer lies whose stack lies so: the same without the first axis."""
  if not isinstance(stack, NamedSharding):
    return stack
  return NamedSharding(stack.mesh, PartitionSpec(*stack.spec[1:]))


def partition(*entries) -> PartitionSpec:
  """A partition by its entries: None, a mesh axis or several."""
  return PartitionSpec(*entries)


def named(mesh: Mesh | AbstractMesh, partition: PartitionSpec) -> NamedSharding:
  """A partition over a mesh."""
  return NamedSharding(mesh, partition)


def parts(mesh: Mesh | AbstractMesh, entry) -> int:
  """Over how many devices an entry of a partition splits its dimension."""
  names = (entry,) if isinstance(entry, str) else tuple(entry or ())
  return int(np.prod([mesh.shape[name] for name in names]))


def tokens(x_BT):
  """[B, T, ...] as [B T, ...]; inside a mesh, which splits B and T, as it is.

  A weight's gradient sums over all tokens.  Over two axes, XLA makes a
  transposed copy for it on a CPU: twice the time of a gated MLP.
  """
  if _one_device():
    return x_BT.reshape(-1, *x_BT.shape[2:])
  return x_BT


def _one_device() -> bool:
  mesh = jax.sharding.get_abstract_mesh()
  return mesh.empty or mesh.size == 1


def constrain(x, axes: str, table: Mapping = DATA):
  """Constrains an activation to the table, inside a mesh; else a no-op."""
  if _one_device():
    return x
  mesh = jax.sharding.get_abstract_mesh()
  return jax.lax.with_sharding_constraint(
    x, spec(mesh, axes, x.shape, table)
  )
