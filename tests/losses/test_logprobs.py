"""Alignment, temperature, bans: the one place that shifts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.losses import logprobs, ppo, reduce

B, T, V = 2, 6, 11


@pytest.fixture
def logits_BTV():
  return jax.random.normal(jax.random.key(0), (B, T, V)) * 3


@pytest.fixture
def tokens_BT():
  return jax.random.randint(jax.random.key(1), (B, T), 0, V)


def by_hand(logits_BTV, tokens_BT, temperature=1.0, banned=()):
  """The definition, one token at a time, in float64."""
  out = np.zeros(tokens_BT.shape)
  for b, t in np.ndindex(*tokens_BT.shape):
    if t:
      z = np.array(logits_BTV[b, t - 1], np.float64)
      z[list(banned)] = -np.inf
      p = np.exp(z / temperature)
      out[b, t] = np.log(p[tokens_BT[b, t]] / p.sum())
  return out


def test_column_t_scores_token_t_given_the_earlier_ones(
  logits_BTV, tokens_BT
):
  got = logprobs.token_logprobs(logits_BTV, tokens_BT)
  want = by_hand(*map(np.array, (logits_BTV, tokens_BT)))
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert not got[:, 0].any()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_logits_of_a_choice_score_the_token_of_their_own_column(
  logits_BTV, tokens_BT, temperature
):
  got = logprobs.choice_logprobs(
    logits_BTV[:, :-1], tokens_BT[:, 1:], temperature=temperature
  )
  want = by_hand(*map(np.array, (logits_BTV, tokens_BT)), temperature)
  np.testing.assert_allclose(got, want[:, 1:], atol=1e-5)


def test_a_later_logit_or_token_never_changes_an_earlier_score(
  logits_BTV, tokens_BT
):
  before = logprobs.token_logprobs(logits_BTV, tokens_BT)
  after = logprobs.token_logprobs(
    logits_BTV.at[:, 3:].add(jnp.arange(V)),
    tokens_BT.at[:, 4:].set((tokens_BT[:, 4:] + 1) % V),
  )
  np.testing.assert_array_equal(before[:, :4], after[:, :4])
  assert (before[:, 4:] != after[:, 4:]).all()


def test_bans_renormalise_as_if_the_ids_did_not_exist(logits_BTV, tokens_BT):
  tokens_BT = tokens_BT % 8
  ban_V = jnp.zeros(V).at[jnp.array([8, 10])].set(-jnp.inf)
  got = logprobs.choice_logprobs(
    logits_BTV[:, :-1], tokens_BT[:, 1:], temperature=0.7, ban_V=ban_V
  )
  want = by_hand(
    *map(np.array, (logits_BTV, tokens_BT)), 0.7, banned=(8, 10)
  )
  np.testing.assert_allclose(got, want[:, 1:], atol=1e-5)


def test_a_banned_token_in_the_padding_leaves_masked_gradients_finite(
  logits_BTV, tokens_BT
):
  tokens_BT = tokens_BT.at[:, 3:].set(10)
  ban_V = jnp.zeros(V).at[10].set(-jnp.inf)
  mask_BT = jnp.arange(T) < jnp.array([[3], [3]])

  def loss(logits_BTV):
    logp_BT = logprobs.choice_logprobs(logits_BTV, tokens_BT, ban_V=ban_V)
    old_BT = jax.lax.stop_gradient(logp_BT)
    l_BT = ppo.clipped_surrogate(logp_BT, old_BT, jnp.ones((B, T)))
    return reduce.masked_mean(l_BT, mask_BT)

  grad = jax.jit(jax.grad(loss))(logits_BTV)
  assert jnp.isfinite(grad).all() and jnp.abs(grad).max() > 0


def test_half_precision_logits_are_scored_in_float32():
  logits_BTV = jnp.zeros((1, 2, 5000), jnp.bfloat16)
  logp_BT = logprobs.token_logprobs(logits_BTV, jnp.zeros((1, 2), int))
  assert logp_BT.dtype == jnp.float32
  np.testing.assert_allclose(logp_BT[0, 1], -np.log(5000), rtol=1e-6)


def test_pad_length_and_pad_id_do_not_matter(logits_BTV, tokens_BT):
  short = logprobs.token_logprobs(logits_BTV[:, :4], tokens_BT[:, :4])
  for pad_id in (0, 7):
    padded_BT = tokens_BT.at[:, 4:].set(pad_id)
    long = logprobs.token_logprobs(logits_BTV, padded_BT)
    np.testing.assert_array_equal(short, long[:, :4])


def test_entropy_is_that_of_the_choice_of_each_token():
  flat, sure = jnp.zeros(V), jnp.zeros(V).at[2].set(1e4)
  logits_BTV = jnp.stack([flat, sure, flat])[None]
  got = logprobs.entropy(logits_BTV)
  np.testing.assert_allclose(got, [[np.log(V), 0, np.log(V)]], atol=1e-5)
  ban_V = jnp.zeros(V).at[jnp.arange(4)].set(-jnp.inf)
  banned = logprobs.entropy(logits_BTV, ban_V=ban_V)
  np.testing.assert_allclose(banned[0, 0], np.log(V - 4), atol=1e-5)


def test_entropy_at_a_temperature_matches_the_sum_over_the_vocabulary(
  logits_BTV,
):
  got = logprobs.entropy(logits_BTV, temperature=1.5)
  p = np.exp(np.array(logits_BTV, np.float64) / 1.5)
  p /= p.sum(-1, keepdims=True)
  want = -(p * np.log(p)).sum(-1)
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("keep_end, learns", [(True, True), (False, False)])
def test_the_end_token_is_learned_only_inside_the_mask(keep_end, learns):
  # Trap 9.
  end = 9
  tokens_BT = jnp.array([[3, 5, end, 0]])
  mask_BT = jnp.array([[False, True, keep_end, False]])

  def loss(logits_BTV):
    logp_BT = logprobs.token_logprobs(logits_BTV, tokens_BT)
    adv_BT = jnp.ones_like(logp_BT)
    old_BT = jax.lax.stop_gradient(logp_BT)
    l_BT = ppo.clipped_surrogate(logp_BT, old_BT, adv_BT)
    return reduce.masked_mean(l_BT, mask_BT)

  grad_BTV = jax.jit(jax.grad(loss))(jnp.zeros((1, 4, V)))
  # The logits at position 1 predict the token at position 2.
  assert bool(grad_BTV[0, 1, end] < 0) == learns
  assert not grad_BTV[0, 2:].any()


@pytest.mark.parametrize("start", [(1, 2), (0, 5), (4, 3)])
@pytest.mark.parametrize("window", [1, 3, 6, 20])
def test_a_window_scores_its_tokens_as_the_whole_row_does(
  logits_BTV, tokens_BT, start, window
):
  start_B = jnp.array(start)
  at_BS = logprobs.predictors(start_B, window, T)
  assert at_BS.shape[1] == min(window, T)
  some_BSV = jnp.take_along_axis(logits_BTV, at_BS[..., None], axis=1)
  whole = np.array(logprobs.token_logprobs(logits_BTV, tokens_BT))
  got = logprobs.token_logprobs(some_BSV, tokens_BT, at_BS=at_BS)
  scored = np.zeros((B, T + 1), bool)
  np.put_along_axis(scored, np.array(at_BS) + 1, True, axis=1)
  scored = scored[:, :T]
  for b, t in np.ndindex(B, T):
    assert scored[b, t] or not t or not start[b] <= t < start[b] + window
  np.testing.assert_allclose(got, np.where(scored, whole, 0), atol=1e-6)
