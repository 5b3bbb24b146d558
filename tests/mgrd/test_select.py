"""Which examples are kept, and what a response is compared to."""

import math

import numpy as np
import pytest

from mgrd_jax.mgrd import select


def binomial(n, p):
  return np.array(
    [math.comb(n, h) * p**h * (1 - p) ** (n - h) for h in range(n + 1)]
  )


def test_the_band_keeps_exactly_three_to_six_of_eight():
  kept = np.flatnonzero(select.band(np.arange(9)))
  assert kept.tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("p, want", [
  (0.6, 0.844), (0.8, 0.495), (0.9, 0.187), (0.95, 0.057), (0.1, 0.038),
  (0.25, 0.321), (0.5, 0.820),
])  # fmt: skip
def test_pass_probabilities_of_the_band(p, want):
  got = binomial(8, p)[select.band(np.arange(9))].sum()
  assert round(float(got), 3) == want


def test_pass_at_k_is_unbiased():
  # Trap 36.
  assert select.pass_at_k(8, 1, 8) == 1
  assert select.pass_at_k(8, 1, 1) == 0.125
  assert select.pass_at_k(8, 0, 8) == 0
  for k in (1, 2, 4):
    at_k = [select.pass_at_k(8, c, k) for c in range(9)]
    assert np.isclose(binomial(8, 0.3) @ at_k, 1 - 0.7**k)


@pytest.mark.parametrize(
  "n, c, k", [(8, 9, 1), (8, 1, 9), (8, 1, 0), (8, -1, 1)]
)
def test_pass_at_k_refuses_impossible_counts(n, c, k):
  with pytest.raises(ValueError):
    select.pass_at_k(n, c, k)


def test_hits_are_counted_by_example_and_not_by_question():
  # Trap 46: one question, two clips, different answers.
  ids = ["clip-a", "clip-b", "clip-a", "clip-b"]
  got = select.count_hits(np.array([1, 0, 1, 1]), ids)
  assert got == {"clip-a": (2, 2), "clip-b": (1, 2)}


def test_unscorable_rows_are_neither_right_nor_wrong():
  keep_B = np.array([True, False, True])
  ids = ["a", "a", "a"]
  assert select.count_hits(np.ones(3), ids, keep_B=keep_B) == {"a": (2, 2)}
  reward_B = np.array([1.0, 100.0, 0.0])
  baseline_B = select.leave_one_out(reward_B, ids, keep_B=keep_B)
  np.testing.assert_array_equal(baseline_B, [0, 100, 1])


def test_leave_one_out_is_the_mean_of_the_others():
  reward_B = np.array([1.0, 0.2, 0.8, 0.0, 1.0])
  ids = ["a", "a", "a", "b", "b"]
  want = [0.5, 0.9, 0.6, 1.0, 0.0]
  np.testing.assert_allclose(select.leave_one_out(reward_B, ids), want)


@pytest.mark.parametrize("reward", [0.0, 0.2, 0.8, 1.0])
@pytest.mark.parametrize("size", [1, 2, 16])
def test_an_all_equal_group_gives_exactly_zero_advantage(reward, size):
  # Trap 37.
  reward_B = np.full(size, reward, np.float32)
  baseline_B = select.leave_one_out(reward_B, ["a"] * size)
  assert not (reward_B - baseline_B).any()


def test_shuffling_the_batch_shuffles_the_advantages_to_the_bit():
  # Trap 48.
  rng = np.random.default_rng(0)
  reward_B = rng.uniform(size=64)
  id_B = np.repeat(np.arange(4), 16)
  order = rng.permutation(64)
  straight_B = select.leave_one_out(reward_B, id_B)
  shuffled_B = select.leave_one_out(reward_B[order], id_B[order])
  np.testing.assert_array_equal(shuffled_B, straight_B[order])


def test_another_clip_with_the_same_question_is_not_in_the_group():
  # Trap 48: grouping by question would give both rows of "easy" less.
  reward_B = np.array([1.0, 1.0, 0.0, 0.0])
  ids = ["easy", "easy", "hard", "hard"]
  np.testing.assert_array_equal(select.leave_one_out(reward_B, ids), reward_B)


def test_integer_rewards_do_not_round_the_baseline():
  got = select.leave_one_out(np.array([1, 0, 0]), ["a"] * 3)
  np.testing.assert_allclose(got, [0, 0.5, 0.5])
