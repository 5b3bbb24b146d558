"""The public attention ops: each picks an implementation, or falls through.

    attention  any keep-mask                       decoding, encoder
    causal     a row's examples, each within itself   training

An implementation raises NotImplementedError for what it does not support
(a shape, a platform); with `implementation=None` the next one is tried.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mgrd_jax.kernels import reference, splash

IMPLEMENTATIONS = {"reference": reference.attention}


def attention(
  q_BTNH: Float[Array, "B T N H"],
  k_BSKH: Float[Array, "B S K H"],
  v_BSKH: Float[Array, "B S K H"],
  mask_BTS: Bool[Array, "#B #T S"],
  *,
  implementation: str | None = None,
) -> Float[Array, "B T N H"]:
  """softmax(q k^T / sqrt(H)) v under a keep-mask, heads grouped.

  Args:
    q_BTNH: queries.
    k_BSKH: keys; K divides N.
    v_BSKH: values.
    mask_BTS: True where query t may read key s; B and T may be 1.
    implementation: a name of IMPLEMENTATIONS, or None for the first that
      supports the call.

  Returns:
    [B, T, N, H] in the dtype of the values.

  Raises:
    ValueError: an unknown implementation.
    NotImplementedError: the named one does not support the call.
  """
  ops = _named(IMPLEMENTATIONS, implementation)
  return _first(ops, q_BTNH, k_BSKH, v_BSKH, mask_BTS)


def _dense(q_BTNH, k_BTKH, v_BTKH, segment_BT):
  """The oracle under the mask of `causal`, without most of what it hides.

  A block of queries reads the keys up to its end.
  """
  time = segment_BT.shape[1]
  within_BTS = segment_BT[:, :, None] == segment_BT[:, None]
  mask_BTS = jnp.tril(jnp.ones((time, time), bool)) & within_BTS
  size = -(-time // min(_BLOCKS, max(time // _LEAST, 1)))
  parts = [
    reference.attention(
      q_BTNH[:, start:end],
      k_BTKH[:, :end],
      v_BTKH[:, :end],
      mask_BTS[:, start:end, :end],
    )
    for start in range(0, time, size)
    for end in [min(start + size, time)]
  ]
  return jnp.concatenate(parts, axis=1)


# Most blocks, since each is code of its own, and least queries of one.
_BLOCKS, _LEAST = 8, 64

# The library's kernel refuses what is no TPU and what does not fit its tiles.
CAUSAL = {"splash": splash.causal, "reference": _dense}


def causal(
  q_BTNH: Float[Array, "B T N H"],
  k_BTKH: Float[Array, "B T K H"],
  v_BTKH: Float[Array, "B T K H"],
  *,
  segment_BT: Int[Array, "B T"],
  implementation: str | None = None,
) -> Float[Array, "B T N H"]:
  """`attention` of a row over itself: before, and of the same segment.

  Args:
    q_BTNH, k_BTKH, v_BTKH: as in `attention`, S being T.
    segment_BT: a query reads the keys up to its own place whose number is
      its own; padding (0) reads padding.
    implementation: a name of CAUSAL, or None for the first that supports the
      call on this machine's backend.

  Raises:
    ValueError: an unknown implementation.
    NotImplementedError: the named one does not support the call.
  """
  ops = _named(CAUSAL, implementation)
  if implementation is None and jax.default_backend() != "tpu":
    ops = [CAUSAL["reference"]]
  return _first(ops, q_BTNH, k_BTKH, v_BTKH, segment_BT)


def _named(table: dict[str, Callable], name: str | None) -> list[Callable]:
  """All of a table, or the one of that name."""
  if name is None:
    return list(table.values())
  if name not in table:
    raise ValueError(
      f"unknown attention implementation {name!r}; have {sorted(table)}"
    )
  return [table[name]]


def _first(ops: list[Callable], *args):
  """What the first op gives that supports the call."""
  refusals = []
  for op in ops:
    try:
      return op(*args)
    except NotImplementedError as error:
      refusals.append(str(error))
  raise NotImplementedError(
    "no attention implementation supports this call: " + "; ".join(refusals)
  )
