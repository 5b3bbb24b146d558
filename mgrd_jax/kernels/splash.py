"""JAX's own flash attention for TPU (Pallas), behind our op and our table.

    q_BTNH split over rows, heads and tokens; keys and values over rows and
    heads -> each device runs the kernel over the blocks that it may read
"""

import functools

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernel_lib,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as mask_lib,
)
from jaxtyping import Array, Float, Int

from mgrd_jax import sharding

LANES = 128  # tiles are multiples of this
BLOCK = 512  # most queries or keys of a tile


def causal(
  q_BTNH: Float[Array, "B T N H"],
  k_BTKH: Float[Array, "B T K H"],
  v_BTKH: Float[Array, "B T K H"],
  segment_BT: Int[Array, "B T"],
  *,
  interpret: bool = False,
) -> Float[Array, "B T N H"]:
  """Causal attention within segments; see `kernels.attention.causal`.

  Under a mesh each device runs it on its rows, heads and tokens.

  Raises:
    NotImplementedError: a device's tokens or the head dimension are no
      multiple of 128 lanes (64 for the latter).
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    kernel = _kernel(q_BTNH.shape, 1, 1, interpret)
    return _rows(q_BTNH, k_BTKH, v_BTKH, segment_BT, segment_BT, kernel)
  q_spec = sharding.spec(mesh, "BTNH", q_BTNH.shape, sharding.DATA)
  rows, tokens, heads, _ = q_spec
  if sharding.spec(mesh, "BTKH", k_BTKH.shape, sharding.DATA)[2] != heads:
    # Fewer key heads than devices: no device would have those of its queries.
    heads = None
  split = functools.partial(sharding.parts, mesh)
  kernel = _kernel(q_BTNH.shape, split(heads), split(tokens), interpret)
  P = sharding.partition
  return jax.shard_map(
    _rows,
    mesh=mesh,
    in_specs=(
      P(rows, tokens, heads),
      P(rows, None, heads),
      P(rows, None, heads),
      P(rows, tokens),
      P(rows),
      kernel.manual_sharding_spec(sharding.named(mesh, P(heads, tokens))),
    ),
    out_specs=P(rows, tokens, heads),
    check_vma=False,
  )(q_BTNH, k_BTKH, v_BTKH, segment_BT, segment_BT, kernel)


def _rows(q_BTNH, k_BSKH, v_BSKH, segment_BT, segment_BS, kernel):
  """The kernel over each row; it takes heads first and scales nothing."""
  q_BTNH = q_BTNH * q_BTNH.shape[-1] ** -0.5

  def row(q_TNH, k_SKH, v_SKH, segment_T, segment_S):
    q_NTH, k_KSH, v_KSH = (
      x.swapaxes(0, 1) for x in (q_TNH, k_SKH, v_SKH)
    )
    ids = kernel_lib.SegmentIds(segment_T, segment_S)
    return kernel(q_NTH, k_KSH, v_KSH, segment_ids=ids).swapaxes(0, 1)

  return jax.vmap(row)(q_BTNH, k_BSKH, v_BSKH, segment_BT, segment_BS)


def _kernel(shape, head_shards: int, token_shards: int, interpret: bool):
  """The kernel of all heads, its mask cut for that many devices."""
  _, time, heads, dim = shape
  own = time // token_shards
  if own % LANES or dim % (LANES // 2):
    raise NotImplementedError(
      f"splash: {own} tokens a device and a head of {dim}, not multiples of "
      f"{LANES} and {LANES // 2}"
    )
  side = max(
    size for size in range(LANES, BLOCK + 1, LANES) if own % size == 0
  )
  return kernel_lib.make_splash_mha(
    mask_lib.MultiHeadMask([mask_lib.CausalMask((time, time))] * heads),
    head_shards=head_shards,
    q_seq_shards=token_shards,
    block_sizes=kernel_lib.BlockSizes(
      block_q=side,
      block_kv=side,
      block_kv_compute=side,
      block_q_dkv=side,
      block_kv_dkv=side,
      block_kv_dkv_compute=side,
      use_fused_bwd_kernel=True,
    ),
    residual_checkpoint_name="attention",
    interpret=interpret,
  )
