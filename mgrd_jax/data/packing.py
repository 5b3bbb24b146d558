"""Examples of different lengths, several to a row.

    draws --first fit--> groups --transforms.collate_packed--> Batch

A step takes draws in their order until one fits no row any more; the next
step begins with that one.  So no draw is lost, and what a step holds follows
from the draws before it and so from the seed.
"""

from collections.abc import Sequence

import numpy as np

from mgrd_jax.data import transforms
from mgrd_jax.data.transforms import Item, Shape
from mgrd_jax.types import Batch

LOOK = 64  # draws that are looked at first; twice as many while all fit


def first_fit(
  items: Sequence[Item], *, rows: int, shape: Shape
) -> list[list[int]]:
  """Positions of the first items that fit together, row by row.

  Each goes into the first row that has columns and clips left for it; the
  first item that fits none ends it.

  Raises:
    ValueError: an item fits no row, not even an empty one.
  """
  groups: list[list[int]] = [[] for _ in range(rows)]
  columns, clips = [0] * rows, [0] * rows
  for at, item in enumerate(items):
    length, count = len(item.row.tokens), len(item.enc)
    if length > shape.time or count > shape.clips:
      raise ValueError(
        f"an example of {length} tokens and {count} clips fits no row of "
        f"{shape.time} and {shape.clips}; raise config.pack or leave it out"
      )
    for row in range(rows):
      if (
        columns[row] + length <= shape.time
        and clips[row] + count <= shape.clips
      ):
        groups[row].append(at)
        columns[row] += length
        clips[row] += count
        break
    else:
      break
  return groups


class Packed:
  """A stream of packed batches: `stream[step]` is the batch of a step.

  A function of the draws and the step alone: a resumed run asks for the step
  that it stopped at and needs no saved iterator.  Where the steps before it
  begin is counted once, from lengths.

  Args:
    draws: an endless sequence of Items, as of `loader.mixture`.
    rows: of a batch.
    shape: of a batch; its clips are those of a row.
  """

  def __init__(self, draws, *, rows: int, shape: Shape):
    self._draws, self._rows, self._shape = draws, rows, shape
    self._starts = [0]

  def _groups(self, start: int) -> tuple[list[list[int]], list[Item]]:
    """The groups of the step that begins at draw `start`, and its draws."""
    items: list[Item] = []
    while True:
      stop = 2 * len(items) or LOOK
      items += [self._draws[start + i] for i in range(len(items), stop)]
      groups = first_fit(items, rows=self._rows, shape=self._shape)
      if sum(map(len, groups)) < len(items):
        return groups, items

  def __getitem__(self, step: int) -> Batch:
    while len(self._starts) <= step:
      groups, _ = self._groups(self._starts[-1])
      self._starts.append(self._starts[-1] + sum(map(len, groups)))
    groups, items = self._groups(self._starts[step])
    return transforms.collate_packed(
      [[items[at] for at in group] for group in groups], self._shape
    )


def fill(batch: Batch) -> float:
  """Share of a batch's columns that hold a token: what packing is for."""
  return float(np.mean(np.asarray(batch.valid_BT)))
