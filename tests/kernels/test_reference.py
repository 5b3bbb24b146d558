"""The oracle: a softmax by hand, masks that slice, and float32 inside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.kernels import reference
from tests import toys

RUN = toys.jit(reference.attention)
# Sums of a few products in another order.
assert_close = functools.partial(np.testing.assert_allclose, atol=1e-6)


def drawn(B=2, T=5, S=7, N=6, K=3, H=4, seed=0):
  """(q, k, v) of normal entries."""
  rng = np.random.default_rng(seed)
  shapes = ((B, T, N, H), (B, S, K, H), (B, S, K, H))
  return tuple(rng.normal(size=s).astype(np.float32) for s in shapes)


def causal(T=5, S=7):
  """Two rows, the second of which begins one key later."""
  return np.arange(S) <= np.arange(T)[:, None] + [[[0]], [[1]]]


def test_two_keys_by_hand():
  # Scores q·k / sqrt(4): log 3 and 0, hence weights 3/4 and 1/4.
  q_BTNH = jnp.zeros((1, 1, 1, 4)).at[..., 0].set(2)
  k_BSKH = jnp.zeros((1, 2, 1, 4)).at[0, 0, 0, 0].set(np.log(3))
  v_BSKH = jnp.arange(8.0).reshape(1, 2, 1, 4)
  out_BTNH = RUN(q_BTNH, k_BSKH, v_BSKH, jnp.ones((1, 1, 2), bool))
  assert_close(out_BTNH, [[[[1.0, 2, 3, 4]]]])


def test_query_heads_share_the_key_heads_in_order():
  q_BTNH, k_BSKH, v_BSKH = drawn()
  mask_BTS = causal()
  grouped = RUN(q_BTNH, k_BSKH, v_BSKH, mask_BTS)
  k_BSNH, v_BSNH = np.repeat(k_BSKH, 2, 2), np.repeat(v_BSKH, 2, 2)
  assert_close(grouped, RUN(q_BTNH, k_BSNH, v_BSNH, mask_BTS))
  # One query by hand: head 4 of 6 reads key head 2 of 3.
  scores_S = k_BSKH[1, :, 2] @ q_BTNH[1, 3, 4] / 2
  scores_S = np.where(mask_BTS[1, 3], scores_S, -99)
  probs_S = np.exp(scores_S) / np.exp(scores_S).sum()
  assert_close(grouped[1, 3, 4], probs_S @ v_BSKH[1, :, 2])


def test_a_masked_key_is_a_key_that_is_not_there():
  q_BTNH, k_BSKH, v_BSKH = drawn()
  keep_S = np.arange(7) < 4
  masked = RUN(q_BTNH, k_BSKH, v_BSKH, keep_S[None, None])
  sliced = RUN(
    q_BTNH, k_BSKH[:, :4], v_BSKH[:, :4], np.ones((1, 1, 4), bool)
  )
  assert_close(masked, sliced)
  k_BSKH[:, 4:], v_BSKH[:, 4:] = 50, 1e9
  changed = RUN(q_BTNH, k_BSKH, v_BSKH, keep_S[None, None])
  np.testing.assert_array_equal(changed, masked)


def test_a_mask_of_one_row_or_one_query_is_that_of_all():
  q_BTNH, k_BSKH, v_BSKH = drawn()
  for small in (causal()[:1], causal()[:, :1], causal()[:1, :1]):
    whole = np.broadcast_to(small, (2, 5, 7))
    np.testing.assert_array_equal(
      RUN(q_BTNH, k_BSKH, v_BSKH, small), RUN(q_BTNH, k_BSKH, v_BSKH, whole)
    )


def test_neither_the_order_of_keys_nor_a_neighbour_matters():
  q_BTNH, k_BSKH, v_BSKH = drawn()
  mask_BTS = causal()
  out_BTNH = RUN(q_BTNH, k_BSKH, v_BSKH, mask_BTS)
  turned = [x[:, ::-1] for x in (k_BSKH, v_BSKH)]
  assert_close(RUN(q_BTNH, *turned, mask_BTS[..., ::-1]), out_BTNH)
  other = [np.stack([x[0], y[1]]) for x, y in zip(
    (q_BTNH, k_BSKH, v_BSKH), drawn(seed=1), strict=True
  )]  # fmt: skip
  np.testing.assert_array_equal(RUN(*other, mask_BTS)[0], out_BTNH[0])


def test_a_query_without_a_key_attends_evenly_and_stays_finite():
  arrays = drawn()
  mask_BTS = causal()
  mask_BTS[0, 2] = False

  def total(*arrays):
    return reference.attention(*arrays, jnp.asarray(mask_BTS)).sum()

  out_BTNH = RUN(*arrays, mask_BTS)
  even_KH = arrays[2][0].mean(0)
  assert_close(out_BTNH[0, 2], np.repeat(even_KH, 2, axis=0))
  for grad in toys.jit(jax.grad(total, (0, 1, 2)))(*arrays):
    assert np.isfinite(grad).all()


def test_gradients_are_those_of_a_softmax_written_out():
  arrays, mask_BTS = drawn(), causal()
  weight_BTNH = drawn(seed=2)[0]

  def written_out(q_BTNH, k_BSKH, v_BSKH):
    k_BSNH, v_BSNH = jnp.repeat(k_BSKH, 2, 2), jnp.repeat(v_BSKH, 2, 2)
    scores = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH) / 2
    weights = jnp.exp(scores) * mask_BTS[:, None]
    weights /= weights.sum(-1, keepdims=True)
    return jnp.einsum("BNTS,BSNH->BTNH", weights, v_BSNH)

  def grads(attend):
    total = lambda *arrays: (attend(*arrays) * weight_BTNH).sum()
    return toys.jit(jax.grad(total, (0, 1, 2)))(*arrays)

  ours = grads(
    lambda *arrays: reference.attention(*arrays, jnp.asarray(mask_BTS))
  )
  for got, want in zip(ours, grads(written_out), strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(want).max() > 0.1


@pytest.mark.parametrize("scale", [1, 100])
def test_bfloat16_is_summed_in_float32(scale):
  q_BTNH, k_BSKH, v_BSKH = (jnp.bfloat16(x) for x in drawn(S=64))
  q_BTNH, mask_BTS = q_BTNH * scale, np.ones((1, 1, 64), bool)
  out_BTNH = RUN(q_BTNH, k_BSKH, v_BSKH, mask_BTS)
  assert out_BTNH.dtype == jnp.bfloat16
  wide = (jnp.float32(x) for x in (q_BTNH, k_BSKH, v_BSKH))
  # The weights and the result are rounded to eight bits, the scores are not:
  # at 100 those are in the hundreds, and eight bits would be off by one.
  np.testing.assert_allclose(
    jnp.float32(out_BTNH), RUN(*wide, mask_BTS), atol=2**-7, rtol=2**-7
  )


def test_bfloat16_queries_are_scaled_in_float32():
  # Heads of 24: their scale is no power of two, and rounds whom it multiplies.
  rng = np.random.default_rng(0)
  draw = lambda: jnp.asarray(rng.normal(size=(1, 9, 2, 24)), jnp.bfloat16)
  q, k, v_BSKH = draw(), draw(), draw().astype(jnp.float32)
  mask_BTS = jnp.ones((1, 1, 9), bool)
  run = jax.jit(reference.attention)
  # Products of bfloat16 numbers are float32 ones to the last bit.
  wide = run(q.astype(jnp.float32), k.astype(jnp.float32), v_BSKH, mask_BTS)
  np.testing.assert_allclose(run(q, k, v_BSKH, mask_BTS), wide, atol=2e-6)
