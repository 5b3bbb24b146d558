"""PPO's pieces against golden numbers and known traps.

The golden numbers are those of verl's functions at commit 1dda039b9, run
unmodified in float64.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.losses import logprobs, ppo, reduce

# Six printed decimals.
assert_close = functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-6)

REWARD_BT = jnp.array([[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0.2]])
VALUE_BT = jnp.array(
  [[0.1, 0.4, 0.3, 0.6, 0.5, 9], [0.2, 0.1, 0.7, 0.3, 0.2, 0.4]]
)
VALID_BT = jnp.array([[1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]], bool)

OLD_BT = jnp.array([[-1.0, -2, -0.5, -3]] * 2)
NEW_BT = jnp.array([[-0.7, -2.6, -0.5, -1.2]] * 2)
ADV_BT = jnp.array([[1.0] * 4, [-1.0] * 4])
MASK_BT = jnp.array([[1, 1, 1, 1], [1, 1, 0, 1]], bool)
WEIGHT_BT = jnp.array([[1, 0.5, 2, 1], [1, 1, 1, 0.25]])
CLIPS = dict(eps_lo=0.2, eps_hi=0.28, dual=3.0)
# Compiled once: op by op, each new shape costs a compilation of its own.
MISMATCH = jax.jit(ppo.mismatch)
GAE = jax.jit(ppo.gae, static_argnames=("gamma", "lam"))
WHITEN = jax.jit(ppo.whiten, static_argnames="std_floor")
REWARD = jax.jit(ppo.terminal_reward)
EV = jax.jit(ppo.explained_variance)
EV_SEQ = jax.jit(ppo.ev_seq)


def golden_gae():
  return GAE(REWARD_BT, VALUE_BT, VALID_BT, gamma=0.9, lam=0.8)


def test_gae_skips_holes_and_padding():
  adv_BT, return_BT = golden_gae()
  assert_close(adv_BT, [
    [0.469664, 0.2912, 0, 0.21, 0.5, 0],
    [0.008198, 0.164164, -0.508106, -0.10848, 0.016, -0.2],
  ])  # fmt: skip
  assert_close(return_BT, [
    [0.569664, 0.6912, 0, 0.81, 1, 0],
    [0.208198, 0.264164, 0.191894, 0.19152, 0.216, 0.2],
  ])  # fmt: skip


def test_whitening_matches_the_golden_numbers():
  white_BT, metrics = WHITEN(golden_gae()[0], VALID_BT)
  assert_close(white_BT, [
    [1.242658, 0.667231, 0, 0.405415, 1.340472, 0],
    [-0.245262, 0.257624, -1.909998, -0.621471, -0.220106, -0.916562],
  ])  # fmt: skip
  assert metrics["adv/frac_floor"] == 0


def test_without_discount_advantage_is_reward_minus_value():
  adv_BT, return_BT = GAE(REWARD_BT, VALUE_BT, VALID_BT)
  assert_close(
    adv_BT, [[0.9, 0.6, 0, 0.4, 0.5, 0], [0, 0.1, -0.5, -0.1, 0, -0.2]]
  )
  assert_close(return_BT, VALID_BT * np.array([[1.0], [0.2]]))


def test_nan_in_padding_does_not_reach_the_advantages():
  value_BT = jnp.where(VALID_BT, VALUE_BT, jnp.nan)
  reward_BT = jnp.where(VALID_BT, REWARD_BT, jnp.nan)
  got = GAE(reward_BT, value_BT, VALID_BT, gamma=0.9, lam=0.8)
  np.testing.assert_array_equal(got, golden_gae())


@pytest.mark.parametrize("length", [0, 1, 3, 8])
def test_reward_falls_on_the_last_valid_token(length):
  # Trap 2: a response of `length` tokens after a prompt of 2, in 10 columns.
  valid_BT = ((jnp.arange(10) >= 2) & (jnp.arange(10) < 2 + length))[None]
  got = REWARD(jnp.array([0.8]), valid_BT)
  want = np.zeros((1, 10), np.float32)
  if length:
    want[0, 1 + length] = 0.8
  np.testing.assert_array_equal(got, want)


def test_reward_placement_reads_lengths_not_ids():
  # Trap 10: padding may share the end token's id; only the mask speaks.
  valid_BT = jnp.array([[0, 1, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0]], bool)
  got = REWARD(jnp.array([1.0, 0.2]), valid_BT)
  assert_close(got, [[0, 0, 0, 1, 0, 0], [0, 0.2, 0, 0, 0, 0]])


def test_thinning_the_loss_mask_leaves_returns_unchanged():
  # Trap 3: the last token leaves the loss, its reward still travels back.
  reward_B = jnp.array([1.0, 0.2])
  last_BT = REWARD(reward_B, VALID_BT) != 0
  loss_mask_BT = VALID_BT & ~last_BT
  reward_BT = REWARD(reward_B, VALID_BT)
  adv_BT, return_BT = GAE(reward_BT, VALUE_BT, VALID_BT)
  wanted_BT = VALID_BT * reward_B[:, None]
  assert_close(return_BT[loss_mask_BT], wanted_BT[loss_mask_BT])
  misused = GAE(reward_BT, VALUE_BT, loss_mask_BT)[1]
  assert not np.allclose(misused[loss_mask_BT], return_BT[loss_mask_BT])
  white_BT, _ = WHITEN(adv_BT, loss_mask_BT)
  assert not white_BT[last_BT].any()


def test_returns_are_the_rewards_whatever_whitening_does():
  # Trap 4: returns exist before whitening and whitening has no way to them.
  value_BT = jax.random.uniform(jax.random.key(0), VALID_BT.shape)
  reward_B = jnp.array([1.0, 0.2])
  reward_BT = REWARD(reward_B, VALID_BT)
  adv_BT, return_BT = GAE(reward_BT, value_BT, VALID_BT)
  white_BT, _ = WHITEN(adv_BT, VALID_BT)
  assert_close(return_BT, VALID_BT * reward_B[:, None])
  assert not np.allclose(white_BT + value_BT * VALID_BT, return_BT)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_whitening_in_shards_equals_whitening_the_batch(cut):
  # Trap 5: the statistics are of all shards together.
  adv_BT = jax.random.normal(jax.random.key(0), (6, 4))
  mask_BT = jnp.arange(4) < jnp.array([[1], [4], [0], [2], [3], [4]])
  whole, metrics = WHITEN(adv_BT, mask_BT)
  shards = [x.reshape(cut, 6 // cut, 4) for x in (adv_BT, mask_BT)]
  white = functools.partial(ppo.whiten, axis_name="shard")
  split, split_metrics = jax.jit(
    jax.vmap(white, axis_name="shard")
  )(*shards)
  assert_close(split.reshape(6, 4), whole)
  assert_close(split_metrics["adv/std_raw"], [metrics["adv/std_raw"]] * cut)


def test_noise_of_the_critic_is_not_blown_up():
  # Trap 6: all rewards 1, values off by at most .04.
  key = jax.random.key(0)
  value_BT = 1 + jnp.clip(0.01 * jax.random.normal(key, (8, 16)), -0.04, 0.04)
  valid_BT = jnp.ones((8, 16), bool)
  reward_BT = REWARD(jnp.ones(8), valid_BT)
  adv_BT, _ = GAE(reward_BT, value_BT, valid_BT)
  white_BT, metrics = WHITEN(adv_BT, valid_BT)
  assert jnp.abs(white_BT).max() <= 0.04 / 0.05
  assert metrics["adv/frac_floor"] == 1
  assert jnp.abs(WHITEN(adv_BT, valid_BT, std_floor=0.0)[0]).max() > 2


def test_whitening_shrinks_the_penalty_of_long_wrong_answers():
  # 12 right of 500 tokens, 4 wrong of 4000, V = .75; spec arithmetic:
  # mean -.477, advantages +.25/-.75 centred at +.727/-.273.
  adv_BT = jnp.array([[0.25]] * 12 + [[-0.75]] * 4)
  adv_BT = jnp.broadcast_to(adv_BT, (16, 4000))
  lens = jnp.array([500] * 12 + [4000] * 4)
  mask_BT = jnp.arange(4000) < lens[:, None]
  white_BT, metrics = WHITEN(adv_BT, mask_BT)
  centred_BT = white_BT * metrics["adv/std_raw"]
  np.testing.assert_allclose(
    [metrics["adv/mean_raw"], centred_BT[0, 0], centred_BT[15, 0]],
    [-0.477, 0.727, -0.273],
    atol=5e-4,
  )


@pytest.mark.parametrize("rows", [0, 1])
def test_whitening_an_empty_mask_is_finite(rows):
  mask_BT = jnp.zeros((2, 3), bool).at[:rows, :1].set(True)
  white_BT, metrics = WHITEN(jnp.full((2, 3), jnp.nan), mask_BT & False)
  assert not white_BT.any()
  assert all(jnp.isfinite(m) for m in metrics.values())
  assert not WHITEN(jnp.ones((2, 3)), mask_BT)[0].any()


@pytest.mark.parametrize("mode, plain, weighted", [
  ("token_mean", 0.148721, -0.276364),
  ("seq_mean_token_sum", 0.520524, -0.967274),
  ("seq_mean_token_mean", 0.344708, -0.120991),
  ("seq_mean_const", 0.065065, -0.120909),
])  # fmt: skip
def test_policy_loss_matches_the_golden_numbers(mode, plain, weighted):
  l_BT = ppo.clipped_surrogate(NEW_BT, OLD_BT, ADV_BT, **CLIPS)
  for loss_BT, want in ((l_BT, plain), (l_BT * WEIGHT_BT, weighted)):
    pair = reduce.aggregate(loss_BT, MASK_BT, mode, const_len=8.0)
    assert_close(reduce.ratio(*pair), want)


def test_policy_statistics_match_the_golden_numbers():
  stats = ppo.surrogate_stats(NEW_BT, OLD_BT, ADV_BT, **CLIPS)
  means = {k: reduce.masked_mean(v, MASK_BT) for k, v in stats.items()}
  assert_close(means["clip_frac"], 0.428571)
  assert_close(means["dual_frac"], 0.142857)
  assert_close(means["approx_kl_k1"], -0.428571)
  # Only row 1 (A < 0) clips at the lower bound: its token 1, ρ = .549.
  assert_close(means["clip_frac_low"], 1 / 7)
  assert_close(stats["ratio"].max(), np.exp(1.8))
  assert means["approx_kl_k3"] >= 0


def test_on_policy_the_gradient_is_that_of_plain_policy_gradient():
  # The old scores are the new ones, held: value -mean(A), gradient -A/n.
  adv_BT = jax.random.normal(jax.random.key(0), (2, 4))

  def loss(logp_BT):
    old_BT = jax.lax.stop_gradient(logp_BT)
    l_BT = ppo.clipped_surrogate(logp_BT, old_BT, adv_BT)
    return reduce.masked_mean(l_BT, MASK_BT)

  value, grad_BT = jax.jit(jax.value_and_grad(loss))(NEW_BT)
  assert_close(value, -reduce.masked_mean(adv_BT, MASK_BT))
  assert_close(grad_BT, jnp.where(MASK_BT, -adv_BT, 0) / MASK_BT.sum())


def test_a_masked_row_gets_no_gradient_from_an_extreme_ratio():
  # Trap 8, with a log-ratio that would overflow without the clip.
  mask_BT = jnp.array([[True, True], [False, False]])
  old_BT = jnp.array([[-1.0, -1], [-900, -900]])

  def loss(logp_BT):
    l_BT = ppo.clipped_surrogate(logp_BT, old_BT, -jnp.ones((2, 2)))
    return reduce.masked_mean(l_BT, mask_BT)

  grad_BT = jax.jit(jax.grad(loss))(jnp.full((2, 2), -1.0))
  assert jnp.isfinite(grad_BT).all() and not grad_BT[1].any()


def test_no_gradient_flows_into_advantages_old_scores_or_returns():
  def loss(adv_BT, old_BT, return_BT):
    l_BT = ppo.clipped_surrogate(NEW_BT, old_BT, adv_BT, dual=3.0)
    w_BT = ppo.tis_weights(old_BT, NEW_BT)
    v_BT = ppo.value_loss(NEW_BT, old_BT, return_BT, clip=0.2)
    return (l_BT * w_BT + v_BT).sum()

  for grad_BT in jax.jit(jax.grad(loss, (0, 1, 2)))(ADV_BT, OLD_BT, OLD_BT):
    assert not grad_BT.any()


def test_value_loss_matches_the_golden_numbers():
  # In float64: |V - V_old| of token 2 is exactly the clip, a tie that
  # rounding to float32 breaks the other way.
  with jax.enable_x64(True):
    value, old, ret = (
      jnp.array(x, jnp.float64)
      for x in ([0.5, 0.9, 0.1, 0.4], [0.1, 0.8, 0.3, 0.4], [1, 1, 0, 0.2])
    )
    mask = jnp.array([True, True, True, False])
    mean = lambda x: reduce.masked_mean(x, mask)
    assert_close(mean(ppo.value_loss(value, old, ret, clip=0.2)), 0.085)
    assert_close(mean(ppo.value_loss(value, old, ret)), 0.045)
    assert_close(mean(ppo.value_clipped(value, old, ret, clip=0.2)), 1 / 3)
    assert_close(EV(value, ret, mask), 0.72)


def test_value_clip_bounds_a_step_and_no_clip_does_not():
  # Trap 33: from V = 0 to G = .8, a clipped step stops pulling at .2.
  pull = lambda v, clip: jax.grad(
    lambda v: ppo.value_loss(v, jnp.zeros(1), jnp.full(1, 0.8), clip=clip)[0]
  )(jnp.array([v]))
  assert pull(0.1, 0.2) < 0 and pull(0.3, 0.2) == 0
  assert pull(0.3, None) < 0


def test_kl_estimators_match_the_golden_numbers():
  new, old = NEW_BT[0], OLD_BT[0]
  assert_close(ppo.kl_k1(new, old), [0.3, -0.6, 0, 1.8])
  assert_close(ppo.kl_k2(new, old), [0.045, 0.18, 0, 1.62])
  assert_close(ppo.kl_k3(new, old), [0.040818, 0.222119, 0, 0.965299])


def test_kl_k3_averages_to_the_divergence():
  logits = jax.random.normal(jax.random.key(0), (2, 7))
  logp, logq = jax.nn.log_softmax(logits)
  exact = (jnp.exp(logp) * (logp - logq)).sum()
  assert_close((jnp.exp(logp) * ppo.kl_k3(logp, logq)).sum(), exact)
  assert_close((jnp.exp(logp) * ppo.kl_k1(logp, logq)).sum(), exact)


def test_truncated_importance_weights_match_the_golden_numbers():
  train = jnp.array([-1, -2, -0.5, -3])
  rollout = jnp.array([-1.2, -1.9, -1.5, -3.05])
  weights = ppo.tis_weights(train, rollout)
  assert_close(weights, [1.221403, 0.904837, 2, 1.051271])
  got = MISMATCH(train, rollout, jnp.ones(4, bool))
  assert_close(got["k1"], -0.2875)
  assert_close(got["k3"], 0.186448)
  assert_close(got["ess"], 0.804282)
  assert_close(got["mean_abs_prob"], 0.116687)
  assert_close(got["max_abs"], 1.0)
  assert_close(got["frac_over_2"], 0.25)
  p, q = np.exp(train), np.exp(rollout)
  assert_close(got["pearson"], np.corrcoef(p, q)[0, 1])


def test_one_engine_shows_no_mismatch_and_full_sample_size():
  # Trap 24's measure: the same distribution on both sides.
  got = MISMATCH(NEW_BT, NEW_BT, MASK_BT)
  assert got["k3"] == got["max_abs"] == 0 and got["ess"] == 1
  assert_close(ppo.tis_weights(NEW_BT, NEW_BT), jnp.ones((2, 4)))
  empty = MISMATCH(NEW_BT, OLD_BT, MASK_BT & False)
  assert all(jnp.isfinite(v) for v in empty.values())


def test_a_ban_on_one_side_only_shows_as_mismatch():
  # Trap 24.
  logits_BTV = jax.random.normal(jax.random.key(0), (2, 5, 9))
  tokens_BT = jax.random.randint(jax.random.key(1), (2, 5), 0, 6)
  mask_BT = jnp.ones((2, 5), bool).at[:, 0].set(False)
  ban_V = jnp.zeros(9).at[6:].set(-jnp.inf)
  score = jax.jit(
    functools.partial(logprobs.choice_logprobs, logits_BTV, tokens_BT)
  )
  both = MISMATCH(score(ban_V=ban_V), score(ban_V=ban_V), mask_BT)
  one = MISMATCH(score(), score(ban_V=ban_V), mask_BT)
  assert both["k3"] < 1e-6 < 1e-3 < one["k3"]


def test_explained_variance_of_perfect_constant_and_opposed_critics():
  ret = jnp.array([1.0, 0, 1, 0])
  mask = jnp.ones(4, bool)
  assert_close(EV(ret, ret, mask), 1)
  assert_close(EV(jnp.full(4, 0.3), ret, mask), 0)
  assert_close(EV(1 - ret, ret, mask), -3)
  assert EV(ret, jnp.full(4, 0.8), mask) == 0


def test_sequence_explained_variance_reads_the_first_response_token():
  # Per token the late, well-informed positions hide a blind start.
  reward_B = jnp.array([1.0, 0, 1, 0])
  valid_BT = jnp.arange(6) >= jnp.array([[1], [2], [1], [3]])
  late_BT = jnp.broadcast_to(reward_B[:, None], (4, 6))
  first_BT = jnp.cumsum(valid_BT, axis=1) == 1
  blind_BT = jnp.where(first_BT, 0.5, late_BT)
  return_BT = late_BT * valid_BT
  assert_close(EV_SEQ(blind_BT, reward_B, valid_BT), 0)
  assert_close(EV_SEQ(late_BT, reward_B, valid_BT), 1)
  assert EV(blind_BT, return_BT, valid_BT) > 0.7
