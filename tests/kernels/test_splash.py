"""The library's flash attention behind our op, interpreted, and the oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax import sharding
from mgrd_jax.kernels import attention, splash

B, T, N, K, H = 2, 256, 4, 2, 64
INTERPRETED = functools.partial(splash.causal, interpret=True)
ORACLE = functools.partial(attention.causal, implementation="reference")


@pytest.fixture(scope="module")
def given():
  """Queries, keys, values; examples of other lengths in each row."""
  rng = np.random.default_rng(0)
  q, k, v = (
    jnp.asarray(rng.normal(size=(B, T, n, H)), jnp.float32) for n in (N, K, K)
  )
  segment_BT = jnp.stack(
    [
      jnp.repeat(jnp.arange(1, 4), jnp.array([100, 60, 96])),
      jnp.repeat(jnp.array([1, 2, 0]), jnp.array([7, 193, 56])),
    ]
  )
  return q, k, v, segment_BT


def results(op, q, k, v, segment_BT):
  """Output and gradients, of what no padding reads."""
  keep = (segment_BT > 0)[..., None, None]

  def loss(q, k, v):
    out = jnp.where(keep, op(q, k, v, segment_BT=segment_BT), 0.0)
    return jnp.square(out).sum(), out

  grads, out = jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
  return out, *grads


def assert_same(found, wanted):
  # Blockwise softmax in float32 against one of whole rows.
  for one, other in zip(found, wanted, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_it_is_the_oracle_forward_and_backward(given):
  assert_same(results(INTERPRETED, *given), results(ORACLE, *given))


@pytest.mark.parametrize(
  "sizes", [dict(fsdp=2, tensor=2, data=2), dict(sequence=2, tensor=2, fsdp=2)]
)
def test_split_over_rows_heads_and_tokens_it_is_the_same(given, sizes):
  if jax.device_count() != 8:
    pytest.skip("needs eight devices")
  mesh = sharding.make_mesh(**sizes)
  with jax.set_mesh(mesh):
    found = jax.jit(functools.partial(results, INTERPRETED))(*given)
  assert_same(found, results(ORACLE, *given))


def test_what_does_not_fit_its_tiles_is_refused(given):
  q, k, v, segment_BT = (x[:, :100] for x in given)
  with pytest.raises(NotImplementedError, match="100 tokens a device"):
    attention.causal(q, k, v, segment_BT=segment_BT, implementation="splash")
