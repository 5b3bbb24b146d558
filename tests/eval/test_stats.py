"""Intervals that cover, tests that agree with hand counts, honest shapes."""

import numpy as np
import pytest

from mgrd_jax.eval import stats


def test_bootstrap_matches_the_normal_interval_of_a_large_sample():
  right_B = np.arange(1000) % 10 < 7
  low, high = stats.bootstrap_ci(right_B)
  half = 1.96 * np.sqrt(0.7 * 0.3 / 1000)
  np.testing.assert_allclose((low, high), (0.7 - half, 0.7 + half), atol=0.003)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
  rng = np.random.default_rng(0)
  covered = 0
  for seed in range(100):
    right_B = rng.uniform(size=200) < 0.6
    low, high = stats.bootstrap_ci(right_B, resamples=300, seed=seed)
    covered += low <= 0.6 <= high
  # Binomial(100, .95) is outside [87, 100] once in a thousand.
  assert covered >= 87


def test_bootstrap_is_seeded_and_degenerate_samples_have_no_width():
  score_B = np.arange(50) % 3 / 2
  first, same, other = (stats.bootstrap_ci(score_B, seed=s) for s in (1, 1, 2))
  assert first == same != other
  assert stats.bootstrap_ci(np.ones(20)) == (1, 1)
  with pytest.raises(ValueError):
    stats.bootstrap_ci(np.zeros(0))


def test_a_wider_level_contains_a_narrower_one():
  score_B = np.arange(80) % 2
  low, high = stats.bootstrap_ci(score_B, level=0.99)
  inner_low, inner_high = stats.bootstrap_ci(score_B, level=0.8)
  assert low < inner_low < inner_high < high


def test_pairing_removes_the_variance_that_items_share():
  rng = np.random.default_rng(0)
  hard_B = rng.uniform(size=400)
  a_B, b_B = hard_B < 0.55, hard_B < 0.50
  mean, low, high = stats.paired_difference_ci(a_B, b_B)
  assert mean == pytest.approx(a_B.mean() - b_B.mean()) and low > 0
  _, loose_low, loose_high = stats.paired_difference_ci(
    a_B, rng.permutation(b_B)
  )
  assert high - low < (loose_high - loose_low) / 2


@pytest.mark.parametrize("only_a, only_b, want", [
  # 2 · sum_{i<=m} C(n, i) / 2^n by hand.
  (0, 0, 1.0), (1, 1, 1.0), (5, 0, 2 / 32), (0, 5, 2 / 32), (3, 1, 10 / 16),
  (10, 2, 2 * (1 + 12 + 66) / 4096),
])  # fmt: skip
def test_mcnemar_equals_the_exact_binomial(only_a, only_b, want):
  both = [(1, 1)] * 7 + [(0, 0)] * 4
  pairs = both + [(1, 0)] * only_a + [(0, 1)] * only_b
  a_B, b_B = np.array(pairs).T
  assert stats.mcnemar_exact(a_B, b_B) == (only_a, only_b, want)


def test_mcnemar_survives_thousands_of_discordant_pairs():
  a_B = np.arange(4000) < 2200
  only_a, only_b, p = stats.mcnemar_exact(a_B, ~a_B)
  assert (only_a, only_b) == (2200, 1800) and 0 < p < 1e-9


def test_unpaired_conditions_are_refused():
  with pytest.raises(ValueError, match="unpaired"):
    stats.mcnemar_exact(np.ones(3), np.ones(4))
  with pytest.raises(ValueError, match="unpaired"):
    stats.paired_difference_ci(np.ones(3), np.ones((3, 1)))


@pytest.mark.parametrize("share", [0.06, 0.2, 0.5, 0.9])
def test_empties_beside_long_chains_raise_the_flag(share):
  # Trap 45: the mean of such a mixture looks like an ordinary length.
  rng = np.random.default_rng(0)
  empty = int(share * 500)
  length_B = np.concatenate([
    np.zeros(empty), rng.normal(3000, 600, 500 - empty).clip(1)
  ])  # fmt: skip
  got = stats.bimodality(rng.permutation(length_B))
  assert got["flag"] == 1
  assert got["share_low"] == pytest.approx(empty / 500)
  assert got["cut"] > 100


@pytest.mark.parametrize("draw", [
  lambda rng: rng.normal(3000, 600, 500).clip(1),
  lambda rng: rng.lognormal(6, 1, 500),
  lambda rng: rng.exponential(800, 500),
  lambda rng: rng.uniform(200, 3000, 500),
  lambda rng: rng.poisson(5, 500),
  lambda rng: rng.choice([39, 40], 500),
  lambda rng: np.full(500, 40),
  lambda rng: np.append(np.full(499, 40), 0),
  lambda rng: np.array([7]),
  lambda rng: np.array([]),
])  # fmt: skip
def test_one_cluster_of_lengths_raises_no_flag(draw):
  assert stats.bimodality(draw(np.random.default_rng(0)))["flag"] == 0
