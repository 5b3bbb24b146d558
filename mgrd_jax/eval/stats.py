"""How sure a number is: intervals, paired tests, shapes.

The item is the unit: average several samples of an item before they come
here.  Two conditions are compared pairwise, on the same items in the same
order.
"""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Shaped


def bootstrap_ci(
  score_B: Shaped[np.ndarray, " B"],
  *,
  level: float = 0.95,
  resamples: int = 2000,
  seed: int = 0,
) -> tuple[float, float]:
  """Percentile bootstrap interval of the mean over items: (low, high).

  `score_B` holds one number an item, 0/1 or a mean over its samples.  The
  same seed gives the same interval.  Raises ValueError without items.
  """
  score_B = np.asarray(score_B, float)
  if score_B.size == 0:
    raise ValueError("no items to resample")
  means = list(_resampled_means(score_B, resamples, seed))
  tail = (1 - level) / 2
  low, high = np.quantile(means, (tail, 1 - tail))
  return float(low), float(high)


def paired_difference_ci(
  a_B: Shaped[np.ndarray, "..."],
  b_B: Shaped[np.ndarray, "..."],
  *,
  level: float = 0.95,
  resamples: int = 2000,
  seed: int = 0,
) -> tuple[float, float, float]:
  """mean(a - b) over the same items, with its bootstrap (low, high).

  Raises ValueError if the two differ in length.
  """
  diff_B = _paired(a_B, b_B)
  low, high = bootstrap_ci(
    diff_B, level=level, resamples=resamples, seed=seed
  )
  return float(diff_B.mean()), low, high


def mcnemar_exact(
  a_B: Shaped[np.ndarray, "..."], b_B: Shaped[np.ndarray, "..."]
) -> tuple[int, int, float]:
  """Exact two-sided McNemar test: (only a right, only b right, p-value).

    p = min(1, 2 · P(X <= min(b, c))),   X ~ Binomial(b + c, ½)

  Only items on which the conditions differ say anything; 1.0 without any.
  Raises ValueError if the two differ in length.
  """
  diff_B = _paired(np.asarray(a_B, bool), np.asarray(b_B, bool))
  only_a, only_b = int((diff_B > 0).sum()), int((diff_B < 0).sum())
  count = only_a + only_b
  below = sum(math.comb(count, i) for i in range(min(only_a, only_b) + 1))
  # Integers to the end: 2**count overflows a float for large counts.
  doubled = min(2 * below, 2**count)
  return only_a, only_b, doubled / 2**count


def bimodality(
  length_B: Shaped[np.ndarray, " B"],
  *,
  min_share: float = 0.05,
  min_explained: float = 0.85,
  min_factor: float = 2.0,
) -> dict[str, float]:
  """Whether lengths form two clusters, which a mean would hide.

  Cuts log(1 + length) in two where the cut explains most variance (Otsu
  1979).  "flag" is 1 if that share reaches `min_explained`, the smaller
  cluster holds `min_share` of the items and the clusters' centres lie a
  factor of `min_factor` apart.  One normal cluster explains 2/π = 0.64 and a
  flat one 0.75, so neither is flagged.  Also returned: "explained",
  "share_low" (items under the cut) and "cut" (the shortest length above it).
  """
  log_B = np.sort(np.log1p(np.asarray(length_B, float)))
  n = len(log_B)
  none = {"flag": 0.0, "explained": 0.0, "share_low": 0.0, "cut": 0.0}
  least = max(1, math.ceil(min_share * n))
  if 2 * least > n or log_B[0] == log_B[-1]:
    return none
  below = np.arange(least, n - least + 1)
  sums = np.cumsum(log_B)
  low = sums[below - 1] / below
  high = (sums[-1] - sums[below - 1]) / (n - below)
  explained = below * (n - below) / n**2 * (high - low) ** 2 / log_B.var()
  best = int(np.argmax(explained))
  apart = high[best] - low[best] >= math.log(min_factor)
  return {
    "flag": float(apart and explained[best] >= min_explained),
    "explained": float(explained[best]),
    "share_low": float(below[best] / n),
    "cut": float(np.expm1(log_B[below[best]])),
  }


def _paired(a_B, b_B) -> Float[np.ndarray, " B"]:
  a_B, b_B = np.asarray(a_B, float), np.asarray(b_B, float)
  if a_B.shape != b_B.shape:
    raise ValueError(f"unpaired: {a_B.shape} against {b_B.shape}")
  return a_B - b_B


def _resampled_means(score_B, resamples, seed) -> Iterator[float]:
  # One resample at a time: memory stays at the size of the items.
  rng = np.random.default_rng(seed)
  for _ in range(resamples):
    yield score_B[rng.integers(score_B.size, size=score_B.size)].mean()
