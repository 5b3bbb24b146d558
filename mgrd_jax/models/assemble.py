"""The tensors of one leaf --read, transpose, stack--> what devices hold.

Every tensor is read once, and each piece of it goes straight to its place:
into arrays that a CPU device then holds as they are, and that another device
copies.  Rows of a file become columns of ours, which is slow where rows begin
a power of two apart, because they then share few places of a cache; so tiles
of them are laid out anew on the way.
"""

import math
import mmap

import jax
import numpy as np

from mgrd_jax.models import shards
from mgrd_jax.models.names import Row
from mgrd_jax.models.shards import Tensor

_PIECE = 16 << 20  # bytes that one thread takes at a time
_LINES, _COLUMNS, _PAD = 256, 1024, 32  # of a tile, and what parts its lines


def leaf(row: Row, tensors: list[Tensor], dtype, placed, pool) -> jax.Array:
  """One leaf of the parameters.

  Args:
    row: the leaf.
    tensors: that hold it, layer by layer.
    dtype: of the leaf.
    placed: its sharding, or None for the default device.
    pool: threads that read.
  """
  indices = [(slice(None),) * len(row.shape)]
  if placed is not None:
    indices = placed.addressable_devices_indices_map(row.shape).values()
  # What some device holds -> its array; devices that hold the same share it.
  parts = {}
  for index in indices:
    held = _ranges(index, row.shape)
    if held not in parts:
      parts[held] = _empty([len(r) for r in held], np.dtype(dtype))
  back = np.argsort(row.order)
  views = [
    (tuple(held[axis] for axis in back), part.transpose(back))
    for held, part in parts.items()
  ]
  shape = row.block[row.stacked :]
  shape = shape if shape[1:] else (1, *shape)  # a vector is one row
  step = max(1, _PIECE // (4 * math.prod(shape[1:])))
  jobs = [
    pool.submit(_spread, tensor, shape, range(shape[0])[at : at + step], layer)
    for i, tensor in enumerate(tensors)
    if (layer := _layer(views, i if row.stacked else None))
    for at in range(0, shape[0], step)
  ]
  for job in jobs:
    job.result()
  if placed is None:
    return jax.device_put(parts[held])
  return jax.make_array_from_callback(
    row.shape, placed, lambda index: parts[_ranges(index, row.shape)]
  )


def _ranges(index, shape) -> tuple[range, ...]:
  pairs = zip(index, shape, strict=True)
  return tuple(range(*cut.indices(size)) for cut, size in pairs)


def _empty(shape, dtype: np.dtype) -> np.ndarray:
  """Memory from the system itself.

  It is aligned, so that a CPU device holds it without a copy; it is mapped at
  once, not at the first touch of each page; and unlike numpy's own it asks
  for no large pages, for which a full machine would first have to make room.
  """
  flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
  flags |= getattr(mmap, "MAP_POPULATE", 0)  # Linux
  memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags)
  return np.frombuffer(memory, dtype).reshape(shape)


def _layer(views, layer: int | None) -> list:
  """Of (ranges, view), those with a part of the layer, and that part."""
  found = []
  for held, view in views:
    if layer is not None:
      if layer not in held[0]:
        continue
      held, view = held[1:], view[layer - held[0].start]
    if view.ndim == 1:
      held, view = (range(1), *held), view[None]
    found.append((held, view))
  return found


def _spread(tensor: Tensor, shape, rows: range, targets) -> None:
  """Reads rows of a tensor into all that hold a part of them.

  Args:
    tensor: what is read.
    shape: of it, no axis flattened.
    rows: along its first axis.
    targets: (what is held, a range for each axis; its view in this order).
  """
  dtype = shards.DTYPES[tensor.dtype]
  box = (rows, *map(range, shape[1:]))
  targets = [(held, view) for held, view in targets if _both(box, held)]
  if not targets:
    return
  if all(view.dtype == dtype for _, view in targets):
    # As integers: numpy moves those without a look at each.
    dtype = np.dtype(f"u{dtype.itemsize}")
    targets = [(held, view.view(dtype)) for held, view in targets]
  with shards.reader(tensor, rows.start * math.prod(shape[1:])) as file:
    held, view = targets[0]
    if len(targets) == 1 and view.dtype == dtype and _both(box, held) == box:
      straight = view[_cut(box, held)]
      if straight.flags.c_contiguous:
        shards.fill(file, tensor, straight)
        return
    step = max(1, _LINES // math.prod(shape[1:-1]))
    raw = _empty((min(step, len(rows)), *shape[1:]), dtype)
    tile = _empty((*raw.shape[:-1], _COLUMNS + _PAD), dtype)
    for start in range(rows.start, rows.stop, step):
      some = range(start, min(start + step, rows.stop))
      shards.fill(file, tensor, raw[: len(some)])
      for first in range(0, shape[-1], _COLUMNS):
        columns = range(shape[-1])[first : first + _COLUMNS]
        box = (some, *map(range, shape[1:-1]), columns)
        part = tile[: len(some), ..., : len(columns)]
        part[...] = raw[: len(some), ..., first : first + len(columns)]
        for held, view in targets:
          if both := _both(box, held):
            view[_cut(both, held)] = part[_cut(both, box)]


def _both(a, b) -> tuple[range, ...]:
  """Where two boxes overlap; empty where they do not."""
  overlap = tuple(
    range(max(x.start, y.start), min(x.stop, y.stop))
    for x, y in zip(a, b, strict=True)
  )
  return overlap if all(overlap) else ()


def _cut(box, within) -> tuple[slice, ...]:
  """The slices that cut `box` out of an array that holds `within`."""
  return tuple(
    slice(x.start - y.start, x.stop - y.start)
    for x, y in zip(box, within, strict=True)
  )
