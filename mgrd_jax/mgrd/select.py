"""Which questions are worth training on, and what a sample is compared to.

    G responses an example → hits of G → band, pass@k ─┐
    G rewards an example   → leave-one-out baseline ───┴→ group metrics

Everything is grouped by example id, never by prompt text: two clips may share
a question and differ in the answer.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped


def count_hits(
  acc_B: Shaped[np.ndarray, " B"],
  example_id_B: Sequence[Hashable] | Shaped[np.ndarray, " B"],
  *,
  keep_B: Bool[np.ndarray, " B"] | None = None,
) -> dict[Hashable, tuple[int, int]]:
  """Example id → (right responses, responses), in order of appearance.

  `acc_B` is the accuracy part, never the summed reward.  Rows outside
  `keep_B` (unscorable) count in neither.
  """
  counts: dict[Hashable, tuple[int, int]] = {}
  for row in _kept(len(acc_B), keep_B):
    hits, total = counts.get(example_id_B[row], (0, 0))
    counts[example_id_B[row]] = hits + bool(acc_B[row]), total + 1
  return counts


def band(
  hits: int | Int[np.ndarray, "*B"], lo: int = 3, hi: int = 6
) -> Bool[np.ndarray, "*B"]:
  """Neither hopeless nor solved: lo <= hits <= hi, of 8 samples.

  Step-Audio-R1, https://arxiv.org/abs/2511.15848, section 4.2.
  """
  hits = np.asarray(hits)
  return np.asarray((lo <= hits) & (hits <= hi))


def pass_at_k(n: int, c: int, k: int) -> float:
  """Probability that k of n samples, c of them right, hold a right one.

    pass@k = 1 - C(n - c, k) / C(n, k)

  Unbiased for 1 - (1 - p)^k.  Raises ValueError unless 0 <= c <= n and
  1 <= k <= n.  Chen et al. 2021, https://arxiv.org/abs/2107.03374, eq. 1.
  """
  if not (0 <= c <= n and 1 <= k <= n):
    raise ValueError(f"need 0 <= c <= n and 1 <= k <= n: {n=}, {c=}, {k=}")
  return 1 - math.comb(n - c, k) / math.comb(n, k)


def leave_one_out(
  reward_B: Num[np.ndarray, " B"],
  example_id_B: Sequence[Hashable] | Shaped[np.ndarray, " B"],
  *,
  keep_B: Bool[np.ndarray, " B"] | None = None,
) -> Float[np.ndarray, " B"]:
  """Each row's baseline: the mean reward of its example's *other* rows.

    b_i = (sum_j R_j - R_i) / (n - 1)

  A row alone in its group, a row outside `keep_B` and a row of a group whose
  rewards are all equal get their own reward, hence an advantage R - b of
  exactly 0.  The order of rows changes nothing, to the bit.  Kool et al.
  2019, https://openreview.net/forum?id=r1lgTGL5DE.
  """
  groups: dict[Hashable, list[int]] = {}
  for row in _kept(len(reward_B), keep_B):
    groups.setdefault(example_id_B[row], []).append(row)
  baseline_B = np.array(reward_B, np.result_type(reward_B, np.float32))
  for rows in groups.values():
    rewards = [float(reward_B[row]) for row in rows]
    if min(rewards) == max(rewards):
      continue
    # fsum rounds once, so the result does not depend on the order.
    total = math.fsum(rewards)
    for row, reward in zip(rows, rewards, strict=True):
      baseline_B[row] = (total - reward) / (len(rows) - 1)
  return baseline_B


def group_metrics(
  acc_B: Shaped[np.ndarray, " B"],
  reward_B: Num[np.ndarray, " B"],
  example_id_B: Sequence[Hashable] | Shaped[np.ndarray, " B"],
  *,
  keep_B: Bool[np.ndarray, " B"] | None = None,
) -> dict[str, float]:
  """Means over the examples of a batch; {} where no row is kept.

  rollout/groups/all_correct, all_wrong, mixed: shares of the groups; only a
  mixed one tells its rows apart.  rollout/pass_at_k: for k up to the smallest
  group.  rollout/groups/ev_loo: explained variance of a row's reward by the
  leave-one-out baseline, which needs no critic: what the critic's own is to
  be held against.
  """
  groups = count_hits(acc_B, example_id_B, keep_B=keep_B).values()
  if not groups:
    return {}
  mean = lambda values: float(np.mean(list(values)))
  rest_B = reward_B - leave_one_out(reward_B, example_id_B, keep_B=keep_B)
  rows = list(_kept(len(reward_B), keep_B))
  spread = reward_B[rows].var()
  return {
    "rollout/groups/all_correct": mean(c == n for c, n in groups),
    "rollout/groups/all_wrong": mean(c == 0 for c, _ in groups),
    "rollout/groups/mixed": mean(0 < c < n for c, n in groups),
    "rollout/groups/ev_loo": (
      float(1 - rest_B[rows].var() / spread) if spread else 0.0
    ),
    **{
      f"rollout/pass_at_{k}": mean(pass_at_k(n, c, k) for c, n in groups)
      for k in (1, 2, 4, 8, 16)
      if k <= min(n for _, n in groups)
    },
  }


def _kept(size, keep_B):
  return range(size) if keep_B is None else np.flatnonzero(keep_B).tolist()
