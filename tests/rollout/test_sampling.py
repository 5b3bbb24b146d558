"""Draws: their frequencies, their keys, and what is never drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.rollout import sampling

LOGITS_V = jnp.array([0.5, -1.0, 2.0, 0.0])
KEY = jax.random.key(0)


@functools.cache
def sampler(temperature):
  """(logits_BV, request_B, pos_B, ban_V) -> tokens and log-probabilities."""

  @jax.jit
  def draw(logits_BV, request_B, pos_B, ban_V):
    keys = sampling.keys(KEY, request_B, pos_B)
    return sampling.sample(
      logits_BV, keys, temperature=temperature, ban_V=ban_V
    )

  return draw


def draw(temperature, rows=4096, banned=()):
  ban_V = sampling.ban(4, banned)
  return map(np.asarray, sampler(temperature)(
    jnp.tile(LOGITS_V, (rows, 1)), np.arange(rows), np.full(rows, 3), ban_V
  ))  # fmt: skip


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_draws_follow_the_tempered_distribution(temperature):
  token_B, logp_B = draw(temperature)
  weight_V = np.exp(np.asarray(LOGITS_V) / temperature)
  golden_V = weight_V / weight_V.sum()
  share_V = np.bincount(token_B, minlength=4) / len(token_B)
  # Four standard deviations of a share of 4096 draws.
  np.testing.assert_allclose(share_V, golden_V, atol=4 * 0.5 / 64)
  np.testing.assert_allclose(logp_B, np.log(golden_V)[token_B], rtol=1e-5)


def test_banned_ids_are_never_drawn_and_the_rest_sums_to_one():
  free_B, _ = draw(1.5)
  assert {1, 2} <= set(free_B)
  token_B, logp_B = draw(1.5, banned=(2, 1))
  assert set(token_B) == {0, 3}
  probs = dict(zip(token_B.tolist(), np.exp(logp_B).tolist(), strict=True))
  assert sum(probs.values()) == pytest.approx(1, abs=1e-6)


def test_temperature_zero_takes_the_most_likely_id_that_is_allowed():
  assert set(next(draw(0.0, rows=8))) == {2}
  token_B, logp_B = draw(0.0, rows=8, banned=(2,))
  assert set(token_B) == {0}
  golden = 0.5 - np.log(np.exp([0.5, -1.0, 0.0]).sum())
  np.testing.assert_allclose(logp_B, golden, rtol=1e-6)


def test_each_request_and_position_has_a_key_of_its_own():
  request_B, pos_B = jnp.divmod(jnp.arange(600), 30)
  data = jax.random.key_data(sampling.keys(KEY, request_B, pos_B))
  assert len(np.unique(data, axis=0)) == 600


def test_nothing_banned_is_no_ban():
  np.testing.assert_array_equal(sampling.ban(4, ()), np.zeros(4))
