"""Rows of several examples: nothing lost, nothing twice, the same again."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgrd_jax.data import packing, transforms
from mgrd_jax.models import audio_lm
from tests import toys

SHAPE = transforms.Shape(time=20, clips=2, frames=toys.FRAMES, width=toys.WIDTH)


class Draws:
  """An endless stream of items: the i-th is named by its first token."""

  def __init__(self, seed: int = 0):
    rng = np.random.default_rng(seed)
    self.lengths = rng.integers(1, 12, 4000)
    self.heard = rng.random(4000) < 0.3

  def __getitem__(self, at: int) -> transforms.Item:
    parts = [[1 + at % 20] * int(self.lengths[at])]
    if self.heard[at]:
      parts.append(toys.clip(at % 5))
    return toys.item(*parts, target=1)


def segments(batch) -> list[np.ndarray]:
  """The text tokens of every example, in any order."""
  found = []
  for row_T, segment_T in zip(batch.tokens_BT, batch.segment_BT, strict=True):
    for number in range(1, segment_T.max() + 1):
      tokens_T = row_T[segment_T == number]
      found.append(tokens_T[tokens_T != toys.PATCH])
  return found


def test_all_draws_come_once_and_in_their_order_of_steps():
  draws = Draws()
  stream = packing.Packed(draws, rows=4, shape=SHAPE)
  at = 0
  for step in range(20):
    found = sorted(map(tuple, segments(stream[step])))
    wanted = []
    while len(wanted) < len(found):
      tokens_T = draws[at].row.tokens
      wanted.append(tuple(tokens_T[tokens_T != toys.PATCH]))
      at += 1
    assert found == sorted(wanted), step


def test_a_step_is_a_function_of_the_draws_and_the_step_alone():
  stream = packing.Packed(Draws(), rows=4, shape=SHAPE)
  whole = [stream[step] for step in range(12)]
  again = packing.Packed(Draws(), rows=4, shape=SHAPE)
  for step in (11, 2, 7):
    for one, other in zip(
      vars(whole[step]).values(), vars(again[step]).values(), strict=True
    ):
      np.testing.assert_array_equal(one, other)


def test_rows_are_mostly_full():
  stream = packing.Packed(Draws(), rows=8, shape=SHAPE)
  alone = np.mean(Draws().lengths) / SHAPE.time
  packed = np.mean([packing.fill(stream[step]) for step in range(20)])
  assert packed > 0.85 > 2 * alone


@settings(max_examples=50, deadline=None)
@given(
  lengths=st.lists(st.integers(1, 20), min_size=1, max_size=40),
  rows=st.integers(1, 5),
)
def test_no_group_overflows_and_none_skips_a_draw(lengths, rows):
  items = [toys.item([1] * n) for n in lengths]
  groups = packing.first_fit(items, rows=rows, shape=SHAPE)
  taken = sorted(at for group in groups for at in group)
  assert taken == list(range(len(taken))) and taken
  columns = [sum(lengths[at] for at in group) for group in groups]
  assert max(columns) <= SHAPE.time
  if len(taken) < len(items):
    assert min(columns) + lengths[len(taken)] > SHAPE.time


def test_an_example_that_fits_no_row_is_refused_with_both_sizes():
  with pytest.raises(ValueError, match="21 tokens and 0 clips .* 20 and 2"):
    packing.first_fit([toys.item([1] * 21)], rows=2, shape=SHAPE)


def test_a_packed_batch_gives_each_example_its_own_logits():
  items = [
    toys.item([1, 2], toys.clip(0), [3, 4], target=2),
    toys.item([5], toys.clip(1), [6, 7, 8], target=3),
    toys.item([9, 10], target=1),
  ]
  batch = transforms.collate_packed([items[:2], items[2:]], SHAPE)
  logits_BTV = toys.APPLY(toys.params(), jnp_batch(batch))
  places = (0, 0), (0, 7), (1, 0)
  for (row, start), item in zip(places, items, strict=True):
    length = len(item.row.tokens)
    alone_BTV = toys.APPLY(toys.params(), toys.batch([item]))
    np.testing.assert_allclose(
      logits_BTV[row, start : start + length],
      alone_BTV[0, :length],
      atol=1e-5,
    )
  pos_BT = np.asarray(audio_lm.positions(jnp_batch(batch)))
  assert pos_BT[0, 7] == 0 and pos_BT[0, 6] == 6


def jnp_batch(batch):
  return type(batch)(**{k: jnp.asarray(v) for k, v in vars(batch).items()})
