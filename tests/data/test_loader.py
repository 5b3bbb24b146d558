"""The mixture: a function of seed and step, in the asked proportions."""

import collections

import numpy as np
import pytest

from mgrd_jax.data import loader

PARTS = {"a": [f"a{i}" for i in range(40)], "b": [f"b{i}" for i in range(20)]}


def stream(parts=PARTS, weights=None, seed=0, batch_size=5):
  weights = {"a": 3.0, "b": 1.0} if weights is None else weights
  return loader.mixture(
    parts, weights, batch_size=batch_size, collate=list, seed=seed
  )


def rows(mixed, steps):
  return [row for step in range(steps) for row in mixed[step]]


def test_a_batch_is_a_function_of_seed_and_step_alone():
  first, again, other = stream(), stream(), stream(seed=1)
  whole = [first[step] for step in range(40)]
  for step in (39, 3, 17, 3):
    assert again[step] == whole[step]
  assert [other[step] for step in range(40)] != whole


def test_rows_come_in_the_proportion_of_the_weights():
  drawn = rows(stream(), 80)
  count = collections.Counter(row[0] for row in drawn)
  assert len(drawn) == 400
  assert count["a"] == pytest.approx(300, abs=2)


def test_each_element_comes_once_an_epoch_and_in_a_new_order():
  drawn = rows(stream(weights={"a": 1.0}), 24)
  epochs = [drawn[i : i + 40] for i in range(0, 120, 40)]
  for epoch in epochs:
    assert sorted(epoch) == sorted(PARTS["a"])
  assert epochs[0] != epochs[1] != epochs[2]


def test_an_empty_part_and_an_unweighted_one_are_left_out():
  parts = PARTS | {"none": []}
  weights = {"a": 1.0, "none": 5.0, "absent": 2.0}
  assert {row[0] for row in rows(stream(parts, weights), 10)} == {"a"}
  assert {r[0] for r in rows(stream(weights={"a": 1.0, "b": 0.0}), 10)} == {"a"}


def test_nothing_to_draw_from_is_refused():
  with pytest.raises(ValueError, match="no data: parts .'a', 'b'."):
    stream(weights={"c": 1.0})
  with pytest.raises(ValueError, match="no data"):
    stream(parts={"a": []})


def test_a_batch_is_what_collate_makes_of_its_rows():
  mixed = loader.mixture(
    {"n": range(6)}, {"n": 1.0}, batch_size=6, collate=sum, seed=0
  )
  assert mixed[0] == mixed[5] == 15


def test_augmentation_is_drawn_from_seed_and_position_alone():
  def mixed(seed, augment):
    return loader.mixture(
      PARTS, {"a": 1.0, "b": 1.0}, batch_size=8, collate=list, seed=seed,
      augment=augment,
    )  # fmt: skip

  tag = lambda element, rng: (element, rng.integers(10**9))
  plain, first, again = mixed(0, None), mixed(0, tag), mixed(0, tag)
  drawn = [first[step] for step in range(12)]
  assert [again[step] for step in (11, 4)] == [drawn[11], drawn[4]]
  # The same elements in the same places, each with a draw of its own.
  for step, rows_ in enumerate(drawn):
    assert [element for element, _ in rows_] == plain[step]
  assert len({number for rows_ in drawn for _, number in rows_}) == 96
  assert mixed(1, tag)[0] != drawn[0]


def test_a_part_is_drawn_by_its_weight_however_many_elements_it_has():
  names = ["a"] * 30 + ["b"] * 10 + ["c"] * 5
  share_N = loader.element_weights(names, {"a": 1.0, "b": 3.0})
  assert share_N[:30].sum() == pytest.approx(0.25)
  assert share_N[30:40].sum() == pytest.approx(0.75)
  assert not share_N[40:].any()
  with pytest.raises(ValueError, match="no data: parts .'a', 'b', 'c'."):
    loader.element_weights(names, {"d": 1.0})


def test_buckets_hold_their_elements_and_pad_the_least():
  rng = np.random.default_rng(0)
  lengths, share_N = rng.integers(3, 90, 200), rng.random(200)
  share_N[7] = 0

  def padded(found):
    return sum(top * share_N[at].sum() for top, at in found)

  for count in (1, 2, 4):
    found = loader.buckets(lengths.tolist(), share_N, count=count)
    assert len(found) == count
    kept = np.sort(np.concatenate([at for _, at in found]))
    np.testing.assert_array_equal(kept, np.delete(np.arange(200), 7))
    assert all(top % 8 == 0 and lengths[at].max() <= top for top, at in found)
  # No other pair of lengths is better.
  two = padded(loader.buckets(lengths.tolist(), share_N, count=2))
  for cut in range(8, 96, 8):
    low = lengths <= cut
    assert two <= cut * share_N[low].sum() + 96 * share_N[~low].sum() + 1e-9
  assert two < padded(loader.buckets(lengths.tolist(), share_N, count=1))
  # Few lengths make few buckets.
  assert len(loader.buckets([5, 6, 20], np.ones(3), count=9)) == 2


def test_buckets_together_draw_every_element_by_its_share():
  names = ["a", "b", "a", "a", "b"]
  elements = [10, 11, 12, 13, 14]
  share_N = loader.element_weights(names, {"a": 3.0, "b": 1.0})
  found = [
    loader.grouped(elements, names, share_N, at)
    for _, at in loader.buckets([5, 6, 7, 30, 31], share_N, count=2)
  ]
  assert [parts for parts, _ in found] == [
    {"a": [10, 12], "b": [11]},
    {"a": [13], "b": [14]},
  ]
  drawn = {
    e: weights[name] / len(parts[name])
    for parts, weights in found
    for name in parts
    for e in parts[name]
  }
  assert drawn == pytest.approx(dict(zip(elements, share_N, strict=True)))


def test_the_parts_of_a_batch_are_the_batch():
  parts = {"a": list(range(10)), "b": list(range(100, 110))}

  def stream(**settings):
    weights = {"a": 2.0, "b": 1.0}
    return loader.mixture(
      parts, weights, batch_size=6, collate=list, seed=3, **settings
    )

  whole = stream()
  for step in (0, 1, 7):
    found = [stream(part=(index, 3))[step] for index in range(3)]
    assert sum(found, []) == whole[step] and len(found[0]) == 2
  with pytest.raises(ValueError, match="6 rows are not 4 equal parts"):
    stream(part=(0, 4))
