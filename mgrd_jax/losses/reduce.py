"""Averages over masks, carried as (sum, count) and divided once.

    micro-batch → (sum, count) ─┐
    micro-batch → (sum, count) ─┴─ add ─→ ratio(sum, count)

A mean of means weights a token by the emptiness of its micro-batch; a sum of
sums over a sum of counts does not, so micro-batching, packing and sharding
change nothing.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped


def masked_sum_count(
  x_BT: Shaped[Array, "*B"], mask_BT: Bool[Array, "*B"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Sum of x where the mask keeps it, and how many it keeps.

  Selects instead of multiplying: inf or NaN at a dropped position does not
  reach the sum.
  """
  x_BT = _floating(x_BT)
  total = jnp.where(mask_BT, x_BT, 0).sum()
  return total, mask_BT.sum().astype(x_BT.dtype)


def ratio(
  total: Float[Array, ""], count: Float[Array, ""]
) -> Float[Array, ""]:
  """total / count, and 0 with zero gradient where nothing was counted."""
  return total / jnp.maximum(count, 1)


def masked_mean(
  x_BT: Shaped[Array, "*B"], mask_BT: Bool[Array, "*B"]
) -> Float[Array, ""]:
  """Mean of x over the kept positions; 0 when none is kept."""
  return ratio(*masked_sum_count(x_BT, mask_BT))


def aggregate(
  loss_BT: Float[Array, "B T"],
  mask_BT: Bool[Array, "B T"],
  mode: str = "token_mean",
  const_len: float | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """A per-token loss as (sum, count); their ratio is the loss.

    token_mean           sum_{b,t} l            / tokens
    seq_mean_token_mean  sum_b (sum_t l / n_b)  / live rows
    seq_mean_token_sum   sum_b (sum_t l)        / live rows
    seq_mean_const       sum_b (sum_t l / const_len) / live rows

  A row is live if the mask keeps any of it; a dead row adds to neither part.
  Finite, with zero gradients, when no row is live.  Raises ValueError for an
  unknown mode, and for seq_mean_const without a positive `const_len`.
  seq_mean_const is the constant normaliser of Liu et al. 2025,
  https://arxiv.org/abs/2503.20783, section 3.2.
  """
  if mode == "token_mean":
    return masked_sum_count(loss_BT, mask_BT)
  count_B = mask_BT.sum(axis=1).astype(loss_BT.dtype)
  sum_B = jnp.where(mask_BT, loss_BT, 0).sum(axis=1)
  if mode == "seq_mean_token_mean":
    sum_B = sum_B / jnp.maximum(count_B, 1)
  elif mode == "seq_mean_const":
    if const_len is None or const_len <= 0:
      raise ValueError(f"seq_mean_const needs const_len > 0, got {const_len}")
    sum_B = sum_B / const_len
  elif mode != "seq_mean_token_sum":
    raise ValueError(f"unknown mode {mode!r}")
  return masked_sum_count(sum_B, count_B > 0)


def _floating(x):
  return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
