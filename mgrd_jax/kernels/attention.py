"""The public attention op: picks an implementation, falls through.

An implementation raises NotImplementedError for what it does not support
(a shape, a platform); with `implementation=None` the next one is tried.
"""

from mgrd_jax.kernels import reference

IMPLEMENTATIONS = {"reference": reference.attention}


def attention(q_BTNH, k_BSKH, v_BSKH, mask_BTS, *, implementation=None):
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
  if implementation is None:
    for op in IMPLEMENTATIONS.values():
      try:
        return op(q_BTNH, k_BSKH, v_BSKH, mask_BTS)
      except NotImplementedError:
        continue
    raise NotImplementedError("no attention implementation supports this call")
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
      f"unknown attention implementation {implementation!r}; "
      f"have {sorted(IMPLEMENTATIONS)}"
    )
  return IMPLEMENTATIONS[implementation](q_BTNH, k_BSKH, v_BSKH, mask_BTS)
