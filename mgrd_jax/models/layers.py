"""Norms, RoPE, gated MLP, convolutions: pure functions over arrays."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mgrd_jax import sharding


def fan_in(size: int):
  """Initialiser N(0, 1/size)."""
  return jax.nn.initializers.normal(stddev=size**-0.5)


def rms_norm(x, scale, *, eps: float):
  """x / rms(x) in float32, cast back, then times scale (as Qwen2 does)."""
  x32 = x.astype(jnp.float32)
  var = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
  return scale * (x32 * jax.lax.rsqrt(var + eps)).astype(x.dtype)


def layer_norm(x, scale, bias, *, eps: float = 1e-5):
  """(x - mean) / std * scale + bias, moments in float32."""
  x32 = x.astype(jnp.float32)
  mean = jnp.mean(x32, axis=-1, keepdims=True)
  var = jnp.mean(jnp.square(x32 - mean), axis=-1, keepdims=True)
  y = (x32 - mean) * jax.lax.rsqrt(var + eps)
  return (y * scale + bias).astype(x.dtype)


def rope(
  x_BTNH: Float[Array, "B T N H"],
  pos_BT: Int[Array, "B T"],
  *,
  theta: float,
) -> Float[Array, "B T N H"]:
  """Rotary positions, rotate-half layout (Su et al. 2021, arXiv 2104.09864)."""
  half = x_BTNH.shape[-1] // 2
  freq_H = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle_BT1H = pos_BT[..., None, None].astype(jnp.float32) * freq_H
  cos, sin = jnp.cos(angle_BT1H), jnp.sin(angle_BT1H)
  a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return rotated.astype(x_BTNH.dtype)


def swiglu(x, gate_DF, up_DF, down_FD):
  """(silu(x gate) * x up) down, over the last axis of x."""
  gate = jnp.einsum("...D,DF->...F", x, gate_DF)
  up = jnp.einsum("...D,DF->...F", x, up_DF)
  return jnp.einsum("...F,FD->...D", jax.nn.silu(gate) * up, down_FD)


# XLA's scatter on a CPU is a serial loop, some 9 us a row; up to this many
# rows of a table, its gradient is cheaper as a product with the one-hot ids.
_SMALL_TABLE = 4096


@jax.custom_vjp
def take(table_VD, ids_BT):
  """Rows of a table, as table_VD[ids_BT]; ids are in range."""
  return table_VD[ids_BT]


def _take_forward(table_VD, ids_BT):
  return table_VD[ids_BT], (table_VD, ids_BT)


def _take_backward(saved, grad_BTD):
  table_VD, ids_BT = saved
  if len(table_VD) > _SMALL_TABLE:
    return jnp.zeros_like(table_VD).at[ids_BT].add(grad_BTD), None
  ids_T, grad_TD = ids_BT.reshape(-1), grad_BTD.reshape(-1, table_VD.shape[1])
  at_TV = (ids_T[:, None] == jnp.arange(len(table_VD))).astype(grad_TD.dtype)
  exact = jax.lax.Precision.HIGHEST
  grad_VD = jnp.einsum("TV,TD->VD", at_TV, grad_TD, precision=exact)
  return grad_VD.astype(table_VD.dtype), None


take.defvjp(_take_forward, _take_backward)


def columns(x_BTD, at_BS):
  """Columns at_BS of each row, as a product: its gradient is one too."""
  at_BST = at_BS[..., None] == jnp.arange(x_BTD.shape[1])
  exact = jax.lax.Precision.HIGHEST
  return jnp.einsum(
    "BST,BTD->BSD", at_BST.astype(x_BTD.dtype), x_BTD, precision=exact
  )


def conv1d(x, kernel, bias, *, stride: int):
  """Width-3 convolution over the middle axis, padding 1, as one matmul.

  [B, A, in] * [3, in, out] -> [B, (A - 1) // stride + 1, out].
  """
  frames = (x.shape[1] - 1) // stride + 1
  padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
  taps = [
    padded[:, tap : tap + (frames - 1) * stride + 1 : stride]
    for tap in range(3)
  ]
  # R counts taps here; XLA's own CPU convolution is several times slower.
  x_BARE = jnp.stack(taps, axis=2)
  y = jnp.einsum(
    "...RE,REF->...F", sharding.tokens(x_BARE), kernel.astype(x.dtype)
  )
  return y.reshape(*x_BARE.shape[:2], -1) + bias
