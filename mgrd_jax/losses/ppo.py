"""Proximal policy optimisation for one terminal, verifiable reward.

    reward_B → terminal_reward → gae → whiten ─→ clipped_surrogate → policy
                                  └── returns ─→ value_loss        → critic

Every function is per token, unreduced and unmasked unless it says otherwise;
the caller averages.  Two masks: `valid_BT` marks real response tokens (the
end-of-turn token included) and shapes returns; `loss_mask_BT`, a subset,
marks what is trained.  Column t describes token t.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mgrd_jax.losses import reduce

# exp(20) is still far from overflow, and no useful ratio lies beyond it.
_MAX_LOG_RATIO = 20.0


def terminal_reward(
  reward_B: Float[Array, " B"], valid_BT: Bool[Array, "B T"]
) -> Float[Array, "B T"]:
  """Each sequence's reward on its last valid token, 0 elsewhere.

  Placed by the mask, never by token ids: padding may share the id of the
  end-of-turn token.  A row without valid tokens gets no reward.
  """
  after_BT = jnp.cumsum(valid_BT[:, ::-1], axis=1)[:, ::-1]
  return jnp.where(valid_BT & (after_BT == 1), reward_B[:, None], 0)


def gae(
  reward_BT: Float[Array, "B T"],
  value_BT: Float[Array, "B T"],
  valid_BT: Bool[Array, "B T"],
  *,
  gamma: float = 1.0,
  lam: float = 1.0,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
  """Generalised advantages A and returns G = A + V, 0 outside `valid_BT`.

    δ_t = r_t + γ V_{t+1} - V_t,   A_t = δ_t + γ λ A_{t+1}

  t + 1 is the next *valid* token; after the last one V and A are 0, also for
  a truncated sequence.  At γ = λ = 1 with a terminal reward A = R - V and
  G = R.  `valid_BT` is never the loss mask: a token dropped from the loss
  still carries the reward to the tokens before it.  Schulman et al. 2016,
  https://arxiv.org/abs/1506.02438, eq. 16.
  """

  def step(carry, inputs):
    next_value_B, next_adv_B = carry
    reward_B, value_B, valid_B = inputs
    delta_B = reward_B + gamma * next_value_B - value_B
    adv_B = delta_B + gamma * lam * next_adv_B
    carry = (
      jnp.where(valid_B, value_B, next_value_B),
      jnp.where(valid_B, adv_B, next_adv_B),
    )
    return carry, adv_B

  zero_B = jnp.zeros_like(value_BT[:, 0])
  inputs = (reward_BT.T, value_BT.T, valid_BT.T)
  _, adv_TB = jax.lax.scan(step, (zero_B, zero_B), inputs, reverse=True)
  adv_BT = jnp.where(valid_BT, adv_TB.T, 0)
  return adv_BT, jnp.where(valid_BT, adv_BT + value_BT, 0)


def whiten(
  adv_BT: Float[Array, "B T"],
  mask_BT: Bool[Array, "B T"],
  *,
  std_floor: float = 0.05,
  axis_name: str | None = None,
) -> tuple[Float[Array, "B T"], dict[str, Float[Array, ""]]]:
  """Advantages with zero mean and unit variance over the whole batch.

    Â = (A - μ) / max(σ, std_floor),   σ² = sum (A - μ)² / (n - 1)

  Below the floor the batch carries no signal, and dividing by its σ would
  train on the critic's noise.  Inside `shard_map` pass `axis_name`, so that
  μ and σ are of the global batch.  0 outside the mask.  Metrics:
  adv/mean_raw, adv/std_raw, and adv/frac_floor = 1 where the floor bound.
  """

  def total(x_BT):
    x = x_BT.sum()
    return x if axis_name is None else jax.lax.psum(x, axis_name)

  count = total(mask_BT.astype(adv_BT.dtype))
  mean = total(jnp.where(mask_BT, adv_BT, 0)) / jnp.maximum(count, 1)
  centred_BT = jnp.where(mask_BT, adv_BT - mean, 0)
  var = total(jnp.square(centred_BT)) / jnp.maximum(count - 1, 1)
  std = jnp.sqrt(var)
  metrics = {
    "adv/mean_raw": mean,
    "adv/std_raw": std,
    "adv/frac_floor": (std < std_floor).astype(adv_BT.dtype),
  }
  return centred_BT / jnp.maximum(std, std_floor), metrics


def clipped_surrogate(
  logp_BT: Float[Array, "*B T"],
  old_logp_BT: Float[Array, "*B T"],
  adv_BT: Float[Array, "*B T"],
  *,
  eps_lo: float = 0.2,
  eps_hi: float = 0.2,
  dual: float | None = None,
) -> Float[Array, "*B T"]:
  """PPO's pessimistic policy loss, per token.

    l = -min(ρ A, clip(ρ, 1 - eps_lo, 1 + eps_hi) A),  ρ = exp(logp - old)

  With `dual` = c > 1, l = min(l, -c A) where A < 0, which bounds the loss of
  a bad token that became likely.  log ρ is clipped to ±20.  Multiply by
  `tis_weights` when another engine sampled.  Schulman et al. 2017,
  https://arxiv.org/abs/1707.06347, eq. 7; dual clip: Ye et al. 2020,
  https://arxiv.org/abs/1912.09729, eq. 5.
  """
  plain_BT, clipped_BT, dual_BT = _surrogates(
    logp_BT, old_logp_BT, adv_BT, eps_lo, eps_hi, dual
  )
  return jnp.minimum(jnp.maximum(plain_BT, clipped_BT), dual_BT)


def surrogate_stats(
  logp_BT: Float[Array, "*B T"],
  old_logp_BT: Float[Array, "*B T"],
  adv_BT: Float[Array, "*B T"],
  *,
  eps_lo: float = 0.2,
  eps_hi: float = 0.2,
  dual: float | None = None,
) -> dict[str, Float[Array, "*B T"]]:
  """Per-token quantities whose masked means are the policy metrics.

  clip_frac: the clipped term won; clip_frac_low: at the lower bound
  (ρ < 1 - eps_lo); dual_frac: the dual clip bound; approx_kl_k1 and
  approx_kl_k3: estimates of KL(old || new), the first may be negative;
  ratio: ρ itself.
  """
  plain_BT, clipped_BT, dual_BT = _surrogates(
    logp_BT, old_logp_BT, adv_BT, eps_lo, eps_hi, dual
  )
  ratio_BT = _ratio(logp_BT, old_logp_BT)
  won_BT = clipped_BT > plain_BT
  stats = {
    "clip_frac": won_BT,
    "clip_frac_low": won_BT & (ratio_BT < 1 - eps_lo),
    "dual_frac": jnp.maximum(plain_BT, clipped_BT) > dual_BT,
    "approx_kl_k1": kl_k1(old_logp_BT, logp_BT),
    "approx_kl_k3": kl_k3(old_logp_BT, logp_BT),
    "ratio": ratio_BT,
  }
  return {k: jax.lax.stop_gradient(v * 1.0) for k, v in stats.items()}


def value_loss(
  value_BT: Float[Array, "*B T"],
  old_value_BT: Float[Array, "*B T"],
  return_BT: Float[Array, "*B T"],
  *,
  clip: float | None = None,
) -> Float[Array, "*B T"]:
  """The critic's squared error, per token.

    ½ max((V - G)², (clip(V, V_old ± clip) - G)²);   ½ (V - G)² if clip=None

  Use no clip during warm-up: from V = 0 it lets V move by `clip` a batch.
  """
  return_BT = jax.lax.stop_gradient(return_BT)
  error_BT = jnp.square(value_BT - return_BT)
  if clip is not None:
    error_BT = jnp.maximum(
      error_BT, _clipped_error(value_BT, old_value_BT, return_BT, clip)
    )
  return 0.5 * error_BT


def value_clipped(
  value_BT: Float[Array, "*B T"],
  old_value_BT: Float[Array, "*B T"],
  return_BT: Float[Array, "*B T"],
  *,
  clip: float,
) -> Bool[Array, "*B T"]:
  """Where the clipped error won; its masked mean is critic/clip_frac."""
  error_BT = jnp.square(value_BT - return_BT)
  return _clipped_error(value_BT, old_value_BT, return_BT, clip) > error_BT


def tis_weights(
  logp_BT: Float[Array, "*B T"],
  rollout_logp_BT: Float[Array, "*B T"],
  *,
  cap: float = 2.0,
) -> Float[Array, "*B T"]:
  """Truncated importance weights, trainer against sampler, per token.

    w = min(exp(logp - rollout_logp), cap)

  Without gradient.  `logp_BT` is the trainer's under the weights that
  sampled.  1 everywhere when both are one engine.
  """
  weight_BT = _ratio(logp_BT, rollout_logp_BT)
  return jax.lax.stop_gradient(jnp.minimum(weight_BT, cap))


def kl_k1(
  logp_BT: Float[Array, "*B T"], ref_logp_BT: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
  """log p - log q on samples of p: unbiased for KL(p || q), any sign."""
  return logp_BT - ref_logp_BT


def kl_k2(
  logp_BT: Float[Array, "*B T"], ref_logp_BT: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
  """½ (log p - log q)² on samples of p: low variance, biased."""
  return 0.5 * jnp.square(logp_BT - ref_logp_BT)


def kl_k3(
  logp_BT: Float[Array, "*B T"], ref_logp_BT: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
  """q/p - 1 - log(q/p) on samples of p: unbiased for KL(p || q), >= 0.

  Schulman 2020, http://joschu.net/blog/kl-approx.html.  log(q/p) is clipped
  to ±20.
  """
  log_ratio_BT = _log_ratio(ref_logp_BT, logp_BT)
  return jnp.expm1(log_ratio_BT) - log_ratio_BT


def mismatch(
  logp_BT: Float[Array, "*B"],
  rollout_logp_BT: Float[Array, "*B"],
  mask_BT: Bool[Array, "*B"],
) -> dict[str, Float[Array, ""]]:
  """How far the trainer's distribution is from the sampler's, over a mask.

  k1, k3: KL(sampler || trainer) on the sampled tokens; max_abs: largest
  |log-ratio|; mean_abs_prob: mean |p - q|; ess: (sum w)² / (n sum w²) of the
  raw weights, 1 at best; frac_over_2: share of w > 2; pearson: of the two
  probabilities, 0 where either is constant.
  """
  mean = lambda x: reduce.masked_mean(x, mask_BT)
  diff_BT = logp_BT - rollout_logp_BT
  weight_BT = _ratio(logp_BT, rollout_logp_BT)
  p_BT, q_BT = jnp.exp(logp_BT), jnp.exp(rollout_logp_BT)
  dp_BT, dq_BT = p_BT - mean(p_BT), q_BT - mean(q_BT)
  spread = mean(dp_BT**2) * mean(dq_BT**2)
  square = mean(weight_BT**2)
  out = {
    "k1": mean(kl_k1(rollout_logp_BT, logp_BT)),
    "k3": mean(kl_k3(rollout_logp_BT, logp_BT)),
    "max_abs": jnp.where(mask_BT, jnp.abs(diff_BT), 0).max(),
    "mean_abs_prob": mean(jnp.abs(p_BT - q_BT)),
    "ess": _safe_divide(mean(weight_BT) ** 2, square),
    "frac_over_2": mean(weight_BT > 2),
    "pearson": _safe_divide(mean(dp_BT * dq_BT), jnp.sqrt(spread)),
  }
  return jax.lax.stop_gradient(out)


def explained_variance(
  value_BT: Float[Array, "*B"],
  return_BT: Float[Array, "*B"],
  mask_BT: Bool[Array, "*B"],
) -> Float[Array, ""]:
  """1 - Var(G - V) / Var(G) over the mask; 0 where G does not vary.

  1 is a perfect critic, 0 no better than a constant, negative is worse.
  """
  return 1 - _safe_divide(
    _variance(return_BT - value_BT, mask_BT),
    _variance(return_BT, mask_BT),
    otherwise=1.0,
  )


def ev_seq(
  value_BT: Float[Array, "B T"],
  reward_B: Float[Array, " B"],
  valid_BT: Bool[Array, "B T"],
) -> Float[Array, ""]:
  """Explained variance of V at the first response token against R.

  One point a sequence: what the critic knows before a word is said.  Per
  token, long sequences dominate and late tokens give the answer away.
  """
  first_B = jnp.argmax(valid_BT, axis=1)
  value_B = jnp.take_along_axis(value_BT, first_B[:, None], axis=1)[:, 0]
  return explained_variance(value_B, reward_B, valid_BT.any(axis=1))


def _log_ratio(logp_BT, old_logp_BT):
  return jnp.clip(logp_BT - old_logp_BT, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def _ratio(logp_BT, old_logp_BT):
  return jnp.exp(_log_ratio(logp_BT, old_logp_BT))


def _surrogates(logp_BT, old_logp_BT, adv_BT, eps_lo, eps_hi, dual):
  """-ρA, its clipped twin, and the dual clip's ceiling (inf where none)."""
  adv_BT = jax.lax.stop_gradient(adv_BT)
  ratio_BT = _ratio(logp_BT, jax.lax.stop_gradient(old_logp_BT))
  clipped_BT = jnp.clip(ratio_BT, 1 - eps_lo, 1 + eps_hi)
  ceiling_BT = jnp.full_like(adv_BT, jnp.inf)
  if dual is not None:
    ceiling_BT = jnp.where(adv_BT < 0, -dual * adv_BT, ceiling_BT)
  return -ratio_BT * adv_BT, -clipped_BT * adv_BT, ceiling_BT


def _clipped_error(value_BT, old_value_BT, return_BT, clip):
  old_value_BT = jax.lax.stop_gradient(old_value_BT)
  near_BT = jnp.clip(value_BT, old_value_BT - clip, old_value_BT + clip)
  return jnp.square(near_BT - return_BT)


def _variance(x_BT, mask_BT):
  mean = reduce.masked_mean(x_BT, mask_BT)
  return reduce.masked_mean(jnp.square(x_BT - mean), mask_BT)


def _safe_divide(top, bottom, otherwise=0.0):
  tiny = 1e-12
  return jnp.where(bottom > tiny, top / jnp.maximum(bottom, tiny), otherwise)
