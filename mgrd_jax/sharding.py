"""The mesh, the one table, and the only place that names partitions.

    leaf name  --suffix-->  axis letters  --table-->  mesh axes

`WEIGHT` says how weights rest, `DATA` how arrays compute.  Another
strategy is another table.
"""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)

AXES = ("data", "fsdp", "tensor")
WEIGHT = {
  "D": "fsdp",
  "E": "fsdp",
  "F": "tensor",
  "N": "tensor",
  "K": "tensor",
  "V": "tensor",
}
DATA = {"B": ("data", "fsdp"), "N": "tensor", "K": "tensor", "F": "tensor"}


def make_mesh(shape: tuple[int, int, int] | None = None) -> Mesh:
  """A mesh over ("data", "fsdp", "tensor"); all devices on fsdp by default.

  Raises:
    ValueError: the shape does not multiply to the number of devices.
  """
  n = jax.device_count()
  shape = shape or (1, n, 1)
  if int(np.prod(shape)) != n:
    raise ValueError(
      f"mesh {dict(zip(AXES, shape, strict=True))} needs "
      f"{int(np.prod(shape))} devices, this machine has {n}; "
      "give make_mesh another `shape`, or none"
    )
  return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


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


def of_layer(stack: jax.sharding.Sharding) -> jax.sharding.Sharding:
  """How a layer lies whose stack lies so: the same without the first axis."""
  if not isinstance(stack, NamedSharding):
    return stack
  return NamedSharding(stack.mesh, PartitionSpec(*stack.spec[1:]))


def constrain(x, axes: str, table: Mapping = DATA):
  """Constrains an activation to the table, inside a mesh; else a no-op."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(
    x, spec(mesh, axes, x.shape, table)
  )
