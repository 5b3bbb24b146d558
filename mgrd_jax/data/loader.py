"""A weighted mixture of examples as one indexable stream of batches.

    parts x weights --shuffle, repeat--> mix --batch--> stream[step]

Batch `step` is a function of the seed and the step alone, so a resumed run
asks for the step it stopped at and needs no saved iterator.
"""

import collections
import itertools
from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np


def mixture(
  parts: Mapping[str, Sequence],
  weights: Mapping[str, float],
  *,
  batch_size: int,
  collate: Callable[[Sequence], object],
  seed: int,
  augment: Callable[[object, np.random.Generator], object] | None = None,
  part: tuple[int, int] = (0, 1),
) -> "grain.MapDataset | _Every":
  """An endless stream of batches; `stream[step]` is the batch of a step.

  Args:
    parts: name -> elements; an empty part is left out.
    weights: name -> share of the rows; names without a part are ignored.
    batch_size: rows a batch.
    collate: elements -> batch.
    seed: of the shuffles and the augmentation.
    augment: (element, rng) -> element, its rng drawn from seed and position.
    part: (index, count): of each batch the rows of this one of `count` equal
      parts, one behind the other; no others are read.

  Raises:
    ValueError: nothing is left to draw from, or rows that are not so many
      parts.
  """
  names = [n for n in sorted(parts) if len(parts[n]) and weights.get(n, 0) > 0]
  if not names:
    raise ValueError(
      f"no data: parts {sorted(parts)} have no weight in {dict(weights)}"
    )
  sources = []
  for i, name in enumerate(names):
    source = grain.MapDataset.source(_Elements(parts[name]))
    sources.append(source.seed(seed + i).shuffle().repeat())
  mixed = sources[0]
  if len(sources) > 1:
    mixed = grain.MapDataset.mix(sources, [weights[n] for n in names])
  if augment is not None:
    mixed = mixed.seed(seed).random_map(augment)
  index, count = part
  if batch_size % count:
    raise ValueError(f"{batch_size} rows are not {count} equal parts")
  batches = mixed.batch(batch_size // count, batch_fn=collate)
  return batches if count == 1 else _Every(batches, index, count)


def element_weights(
  names: Sequence[str], weights: Mapping[str, float]
) -> np.ndarray:
  """Share of the draws that each element has, its part's weight split evenly.

  Args:
    names: the part that each element belongs to.
    weights: name -> share of its part; a name that is absent has none.

  Returns:
    Shares that sum to 1.

  Raises:
    ValueError: no element has a weight.
  """
  counts = collections.Counter(names)
  share_N = np.array([weights.get(n, 0.0) / counts[n] for n in names])
  if not share_N.sum() > 0:
    raise ValueError(
      f"no data: parts {sorted(counts)} have no weight in {dict(weights)}"
    )
  return share_N / share_N.sum()


def buckets(
  lengths: Sequence[int],
  share_N: np.ndarray,
  *,
  count: int,
  multiple: int = 8,
) -> list[tuple[int, np.ndarray]]:
  """Groups elements by length so that the expected padding is least.

  Args:
    lengths: of the elements.
    share_N: how often each element is drawn.
    count: most groups: each is a shape, and a shape is a compilation.
    multiple: padded lengths are multiples of this.

  Returns:
    [(padded length, positions of its elements)], shortest first; elements
    that are never drawn are left out.
  """
  drawn = np.flatnonzero(share_N > 0)
  padded_N = -(-np.asarray(lengths)[drawn] // multiple) * multiple
  tops, place_N = np.unique(padded_N, return_inverse=True)
  mass = np.bincount(place_N, share_N[drawn])

  def columns(cuts):
    return mass @ np.asarray(cuts)[np.searchsorted(cuts, tops)]

  ends = itertools.combinations(
    tops[:-1].tolist(), min(count, len(tops)) - 1
  )
  cuts = min(([*e, int(tops[-1])] for e in ends), key=columns)
  group_N = np.searchsorted(cuts, padded_N)
  return [(top, drawn[group_N == i]) for i, top in enumerate(cuts)]


def grouped(
  elements: Sequence, names: Sequence[str], share_N: np.ndarray, at: np.ndarray
) -> tuple[dict[str, list], dict[str, float]]:
  """(parts, weights) of `mixture` for a bucket: the elements at `at`.

  A part weighs what its elements in this bucket do, so that over all buckets
  each element is drawn by its share.
  """
  parts: dict[str, list] = {}
  weights: dict[str, float] = {}
  for i in at:
    name = names[i]
    parts.setdefault(name, []).append(elements[i])
    weights[name] = weights.get(name, 0.0) + float(share_N[i])
  return parts, weights


class _Every:
  """Every `count`-th of an endless stream, whose length is no number."""

  def __init__(self, stream, index: int, count: int):
    self._stream, self._index, self._count = stream, index, count

  def __getitem__(self, step: int):
    return self._stream[self._index + step * self._count]


class _Elements:
  """A sequence as grain wants one; elements are handed over as they are."""

  def __init__(self, elements: Sequence):
    self._elements = elements

  def __len__(self) -> int:
    return len(self._elements)

  def __getitem__(self, index):
    return self._elements[index]

  def __repr__(self):
    return f"{len(self)} elements"
