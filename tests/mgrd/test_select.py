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


def metrics(acc_B, id_B, reward_B=None, keep_B=None):
  acc_B = np.array(acc_B, np.float32)
  reward_B = acc_B if reward_B is None else np.array(reward_B, np.float32)
  keep_B = None if keep_B is None else np.array(keep_B)
  return select.group_metrics(acc_B, reward_B, id_B, keep_B=keep_B)


def test_one_question_about_two_clips_is_two_groups():
  # Traps 36, 46 and 48: rows of both clips in turn, one of them always right.
  found = metrics([1, 0] * 4, [5, 9] * 4)
  assert found == {
    "rollout/groups/all_correct": 0.5,
    "rollout/groups/all_wrong": 0.5,
    "rollout/groups/mixed": 0.0,
    # What its others earned is all that a row earns.
    "rollout/groups/ev_loo": 1.0,
    **{f"rollout/pass_at_{k}": 0.5 for k in (1, 2, 4)},
  }


def test_pass_at_k_and_the_baseline_of_a_mixed_group():
  # One of eight, and two of eight.
  acc_B = [1, 0, 0, 0, 0, 0, 0, 0] + [1, 1, 0, 0, 0, 0, 0, 0]
  found = metrics(acc_B, [0] * 8 + [1] * 8)
  assert found["rollout/groups/mixed"] == 1
  assert found["rollout/pass_at_1"] == pytest.approx((1 / 8 + 2 / 8) / 2)
  assert found["rollout/pass_at_2"] == pytest.approx((2 / 8 + 13 / 28) / 2)
  assert found["rollout/pass_at_8"] == 1
  assert "rollout/pass_at_16" not in found
  # A row against the mean of its others: worse than the mean of all.
  others = [(sum(g) - r) / 7 for g in (acc_B[:8], acc_B[8:]) for r in g]
  rest_B = np.array(acc_B) - others
  want = 1 - rest_B.var() / np.var(acc_B)
  assert found["rollout/groups/ev_loo"] == pytest.approx(want) and want < 0


def test_accuracy_is_counted_and_not_the_reward_nor_what_cannot_be_scored():
  # Wrong with a thought earns 0.2; the last row is unscorable.
  found = metrics(
    [1, 0, 0, 1], [3] * 4, [1, 0.2, 0.2, 9], [True] * 3 + [False]
  )
  assert found["rollout/pass_at_1"] == pytest.approx(1 / 3)
  assert found["rollout/groups/mixed"] == 1
  assert metrics([1, 1], [0, 0], keep_B=[False, False]) == {}
  assert metrics([1, 1], [0, 0])["rollout/groups/ev_loo"] == 0
