"""Draws: their frequencies, their keys, and what is never drawn."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.rollout import engine, sampling

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


@pytest.mark.parametrize(
  "function", [sampling.log_probs, sampling.sample, engine.generate]
)
@pytest.mark.parametrize("name", ["top_p", "top_k", "min_p"])
def test_no_function_takes_a_filter_of_the_distribution(function, name):
  """Trap 23: the trainer scores the whole distribution."""
  # Under --jaxtyping-packages the function itself is inside a wrapper.
  taken = inspect.signature(inspect.unwrap(function)).parameters.values()
  assert name not in {p.name for p in taken}
  assert not any(p.kind == p.VAR_KEYWORD for p in taken)


def test_the_unlikely_is_drawn_as_often_as_it_is_likely():
  # A thousandth each: any usual top-p or top-k would drop all of the tail.
  prob_V = np.array([0.95] + [0.001] * 50)
  logits_BV = jnp.tile(jnp.log(prob_V), (1 << 15, 1))
  at_B = jnp.arange(len(logits_BV))
  keys = sampling.keys(KEY, at_B, jnp.zeros_like(at_B))
  token_B, logp_B = sampling.sample(logits_BV, keys, temperature=1.0)
  assert set(np.asarray(token_B).tolist()) == set(range(len(prob_V)))
  tail = np.mean(np.asarray(token_B) > 0)
  assert tail == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / (1 << 15)) ** 0.5)
  np.testing.assert_allclose(logp_B, np.log(prob_V)[token_B], rtol=1e-4)


def test_each_request_and_position_has_a_key_of_its_own():
  request_B, pos_B = jnp.divmod(jnp.arange(600), 30)
  data = jax.random.key_data(sampling.keys(KEY, request_B, pos_B))
  assert len(np.unique(data, axis=0)) == 600


def test_nothing_banned_is_no_ban():
  np.testing.assert_array_equal(sampling.ban(4, ()), np.zeros(4))
