"""The gradient of a mean, taken in one piece or in micro-batches of rows.

    grad L = sum_i grad (sum of micro-batch i) / sum_i (count of micro-batch i)

A micro-batch holds every n-th row, so of rows that are split over devices
each device takes some of its own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def of_mean(loss_fn: Callable, params, given, *, rows, accumulate: int = 1):
  """(mean, count, told, gradients of the mean) of a loss.

  Args:
    loss_fn: (params, given) -> (sum, (count, told)): a loss summed over what
      it counts, and arrays that metrics are made of.
    params: what is differentiated.
    given: a pytree whose arrays have rows first.
    rows: how many rows `given` has, or of each of its parts; an array may
      have a multiple of them, as many beside each row.
    accumulate: how many micro-batches.  Of more than one the gradients are
      added in float32, and `told` has their number in front.

  Raises:
    ValueError: rows that are not so many micro-batches.
  """
  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
  if accumulate == 1:
    (total, (count, told)), grads = grad_fn(params, given)
  else:

    def add(sums, part):
      (total, (count, told)), grads = grad_fn(params, part)
      return jax.tree.map(jnp.add, sums, (total, count, grads)), told

    zero = jnp.float32(0)
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    (total, count, grads), told = jax.lax.scan(
      add, (zero, zero, zeros), micro_batches(given, rows, accumulate)
    )
  least = jnp.maximum(count, 1)
  return total / least, count, told, jax.tree.map(lambda g: g / least, grads)


def micro_batches(given, rows, parts: int):
  """`given` with a leading axis of its micro-batches, for `jax.lax.scan`."""

  def cut(rows, tree):
    if rows % parts:
      raise ValueError(
        f"{rows} rows are not {parts} micro-batches; accumulate over a number "
        "that divides them"
      )
    return jax.tree.map(lambda x: _every(x, rows, parts), tree)

  return jax.tree.map(cut, rows, given)


def _every(x, rows: int, parts: int):
  """[rows * n, ...] -> [parts, rows / parts * n, ...]."""
  beside, rest = len(x) // rows, x.shape[1:]
  x = x.reshape(rows // parts, parts, beside, *rest)
  return x.swapaxes(0, 1).reshape(parts, rows // parts * beside, *rest)
