"""The decoder: causal, blind to padding, and its parts by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.models import layers
from tests import toys

PARAMS = toys.trained_parts(noise=0.1)
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]


def logits(*rows, time=16):
  items = [toys.item(row) for row in rows]
  return np.asarray(toys.APPLY(PARAMS, toys.batch(items, time=time, clips=0)))


def test_later_tokens_do_not_change_earlier_logits():
  changed = TOKENS[:6] + [7] + TOKENS[7:]
  a_BTV, b_BTV = logits(TOKENS, changed)
  np.testing.assert_array_equal(a_BTV[:6], b_BTV[:6])
  assert np.abs(a_BTV[6:10] - b_BTV[6:10]).min(-1).max() > 1e-3


def test_earlier_tokens_change_every_later_logit():
  a_BTV, b_BTV = logits(TOKENS, [8] + TOKENS[1:])
  assert (np.abs(a_BTV - b_BTV).max(-1)[: len(TOKENS)] > 1e-4).all()


def test_neither_the_length_nor_the_id_of_padding_matters():
  short_BTV = logits(TOKENS)
  n = len(TOKENS)
  long_BTV = logits(TOKENS, time=24)
  np.testing.assert_allclose(long_BTV[:, :n], short_BTV[:, :n], atol=2e-6)
  batch = toys.batch([toys.item(TOKENS)], clips=0)
  tokens_BT = jnp.where(batch.valid_BT, batch.tokens_BT, 17)
  other = dataclasses.replace(batch, tokens_BT=tokens_BT)
  other_BTV = np.asarray(toys.APPLY(PARAMS, other))
  np.testing.assert_array_equal(other_BTV[:, :n], short_BTV[:, :n])


def test_a_row_does_not_see_its_neighbours():
  alone_BTV = logits(TOKENS)
  both_BTV = logits(TOKENS[::-1], TOKENS)
  n = len(TOKENS)
  np.testing.assert_allclose(both_BTV[1, :n], alone_BTV[0, :n], atol=2e-6)


def test_an_empty_row_is_finite_forwards_and_backwards():
  batch = toys.batch([toys.item(TOKENS)], clips=0, rows=2)

  def total(params):
    return toys.apply(params, batch).sum()

  value, grads = toys.jit(jax.value_and_grad(total))(PARAMS)
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_rope_turns_by_position_and_keeps_only_distances():
  at = [0, 3, 7, 8, 1003, 1007]
  rng = np.random.default_rng(0)
  x_NH = rng.normal(size=(2, 8)).astype(np.float32)
  x_BTNH = np.broadcast_to(x_NH, (1, len(at), 2, 8))
  turn = toys.jit(functools.partial(layers.rope, theta=1e4))
  rows = np.asarray(turn(x_BTNH, np.array([at])))[0]
  turned = dict(zip(at, rows, strict=True))
  np.testing.assert_array_equal(turned[0], x_NH)
  dot = lambda q, k: float(turned[q][0] @ turned[k][1])
  # The angle at 1007 has an error of 1007 * 2^-24.
  assert dot(1007, 1003) == pytest.approx(dot(7, 3), abs=2e-3)
  assert abs(dot(8, 3) - dot(7, 3)) > 1e-2
  # Rotate-half by hand: entry 1 pairs with entry 5, rate 1e4^(-1/4) = 0.1.
  a, b = x_NH[0, 1], x_NH[0, 5]
  cos, sin = np.cos(0.3), np.sin(0.3)
  golden = [a * cos - b * sin, b * cos + a * sin]
  np.testing.assert_allclose(turned[3][0, [1, 5]], golden, atol=1e-5)


def test_norms_take_their_moments_in_float32():
  x = (1e3 + jax.random.normal(jax.random.key(0), (4, 64))).astype(jnp.bfloat16)
  x64 = np.asarray(x, np.float64)
  y = layers.rms_norm(x, jnp.ones(64, jnp.bfloat16), eps=1e-6)
  golden = x64 / np.sqrt((x64**2).mean(-1, keepdims=True))
  assert y.dtype == jnp.bfloat16
  # One rounding to bfloat16: 2^-8 relative.
  np.testing.assert_allclose(np.asarray(y, np.float64), golden, rtol=2**-8)
