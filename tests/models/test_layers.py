"""Rows of a table and columns of a sequence, and what flows back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.models import layers


@pytest.mark.parametrize("small", [0, 4096])
def test_taking_rows_is_indexing_forward_and_backward(monkeypatch, small):
  monkeypatch.setattr(layers, "_SMALL_TABLE", small)
  rng = np.random.default_rng(0)
  table_VD = jnp.asarray(rng.normal(size=(7, 3)), jnp.float32)
  ids_BT = jnp.asarray([[0, 6, 6], [2, 0, 0]])
  weight_BTD = rng.normal(size=(2, 3, 3)).astype(np.float32)

  def loss(rows):
    return lambda table_VD: (rows(table_VD) * weight_BTD).sum()

  found = jax.value_and_grad(loss(lambda t: layers.take(t, ids_BT)))(table_VD)
  asked = jax.value_and_grad(loss(lambda t: t[ids_BT]))(table_VD)
  np.testing.assert_allclose(found[0], asked[0], rtol=1e-6)
  np.testing.assert_allclose(found[1], asked[1], atol=1e-6)


def test_columns_are_those_named_and_pass_their_gradient_to_them_alone():
  rng = np.random.default_rng(1)
  x_BTD = jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32)
  at_BS = jnp.asarray([[1, 2], [3, 4]])
  found, back = jax.vjp(lambda x: layers.columns(x, at_BS), x_BTD)
  np.testing.assert_array_equal(
    found, jnp.take_along_axis(x_BTD, at_BS[..., None], axis=1)
  )
  (grad_BTD,) = back(jnp.ones_like(found))
  heard = np.zeros((2, 5, 3))
  heard[0, 1:3] = heard[1, 3:] = 1
  np.testing.assert_array_equal(grad_BTD, heard)


def test_a_small_tables_gradient_has_no_scatter():
  def loss(table_VD, ids_T):
    return layers.take(table_VD, ids_T).sum()

  small = jax.jit(jax.grad(loss)).lower(jnp.ones((8, 2)), jnp.arange(3))
  large = jax.jit(jax.grad(loss)).lower(jnp.ones((5000, 2)), jnp.arange(3))
  assert "scatter" not in small.as_text()
  assert "scatter" in large.as_text()
