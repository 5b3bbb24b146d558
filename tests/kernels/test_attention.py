"""The public op: the first implementation that supports a call answers it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.kernels import attention, reference

MASK_BTS = jnp.ones((1, 1, 3), bool)


def arrays(T):
  q_BTNH = jax.random.normal(jax.random.key(0), (1, T, 2, 4))
  return q_BTNH, *jax.random.normal(jax.random.key(1), (2, 1, 3, 1, 4))


def decoding(q_BTNH, k_BSKH, v_BSKH, mask_BTS):
  """Supports one query alone, and is told by its sign."""
  if q_BTNH.shape[1] > 1:
    raise NotImplementedError("decoding: one query a row")
  return -reference.attention(q_BTNH, k_BSKH, v_BSKH, mask_BTS)


@pytest.fixture
def two(monkeypatch):
  """`decoding` before the reference."""
  found = {"decoding": decoding, "reference": reference.attention}
  monkeypatch.setattr(attention, "IMPLEMENTATIONS", found)


def test_the_first_that_supports_a_call_answers_it(two):
  one, many = arrays(1), arrays(2)
  np.testing.assert_array_equal(
    attention.attention(*one, MASK_BTS), decoding(*one, MASK_BTS)
  )
  np.testing.assert_array_equal(
    attention.attention(*many, MASK_BTS),
    reference.attention(*many, MASK_BTS),
  )


def test_the_one_that_is_named_answers_or_refuses(two):
  named = lambda T, name: attention.attention(
    *arrays(T), MASK_BTS, implementation=name
  )
  np.testing.assert_array_equal(
    named(1, "reference"), reference.attention(*arrays(1), MASK_BTS)
  )
  with pytest.raises(NotImplementedError, match="one query a row"):
    named(2, "decoding")


def test_a_call_that_none_supports_says_so(monkeypatch):
  found = {"decoding": decoding}
  monkeypatch.setattr(attention, "IMPLEMENTATIONS", found)
  with pytest.raises(NotImplementedError, match="no attention implementation"):
    attention.attention(*arrays(2), MASK_BTS)


def test_a_fault_is_no_lack_of_support(monkeypatch):
  def faulty(*_):
    raise ValueError("a fault")

  found = {"faulty": faulty, "reference": reference.attention}
  monkeypatch.setattr(attention, "IMPLEMENTATIONS", found)
  with pytest.raises(ValueError, match="a fault"):
    attention.attention(*arrays(1), MASK_BTS)


def test_an_unknown_implementation_is_refused_by_name():
  with pytest.raises(ValueError, match="'none such'; have .*reference"):
    attention.attention(*arrays(1), MASK_BTS, implementation="none such")
