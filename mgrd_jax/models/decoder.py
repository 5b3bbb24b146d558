"""Causal language model of the Qwen2.5 family, with a key-value cache.

    x += Wo attention(rope(Wq n(x) + bq), rope(Wk n(x) + bk), Wv n(x) + bv)
    x += Wd (silu(Wg n(x)) * Wu n(x)),     n = RMSNorm

One parameter tree, stacked over layers; two ways to run it.  Without a
cache the layers are scanned (small programs, fast compiles: training), over
whole rows or over prompts and all the continuations of each; with one they
are unrolled over per-layer buffers (no copy: decoding).
`unstack` gives each layer buffers of its own, for a model that only decodes:
on a CPU a slice of a stack is copied before it is multiplied.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mgrd_jax import sharding
from mgrd_jax.kernels import attention as attention_op
from mgrd_jax.models import layers


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes; `tied`: the head is the embedding; `context`: most positions.

  How it is run, which changes no result: `remat` names what a backward pass
  makes once more (`REMAT`), `attention` an implementation of training's
  attention, the first that fits by default.
  """

  vocab: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  ffn: int
  rope_theta: float = 1e6
  eps: float = 1e-6
  tied: bool = False
  context: int = 65536
  remat: str = "none"
  attention: str | None = None


# What a layer keeps for its backward pass: all of it; its matrix products,
# and the attention's; the attention's result alone; its input alone.
REMAT = {
  "none": None,
  "dots": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names("attention"),
  ),
  "attention": jax.checkpoint_policies.save_only_these_names("attention"),
  "full": jax.checkpoint_policies.nothing_saveable,
}


def rematerialised(step, name: str):
  """A scan's step whose backward pass keeps what REMAT[name] says.

  Raises:
    ValueError: there is no such policy.
  """
  if name not in REMAT:
    raise ValueError(f"unknown remat policy {name!r}; have {sorted(REMAT)}")
  if name == "none":
    return step
  # The scan already keeps XLA from merging the two computations.
  return jax.checkpoint(step, policy=REMAT[name], prevent_cse=False)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
  """Per-layer buffers `k_BKHS`, `v_BKSH`; a slot is a position.

  Heads stand before slots, as the two products of a decoding step read them.
  """

  k_BKHS: tuple
  v_BKSH: tuple


def empty_cache(config: DecoderConfig, rows: int, slots: int, dtype) -> KVCache:
  """A zeroed cache of `slots` positions for `rows` sequences."""
  B, K, S, H = rows, config.kv_heads, slots, config.head_dim
  k_BKHS = jnp.zeros((B, K, H, S), dtype)
  v_BKSH = jnp.zeros((B, K, S, H), dtype)
  return KVCache((k_BKHS,) * config.layers, (v_BKSH,) * config.layers)


def block(
  x_BTD, w, pos_BT, attend, config, *, cache_kv=None, prompt_kv=None
):
  """One decoder layer, and the keys and values that it wrote.

  `attend` is the attention op, bound to what each query may read.  With
  `cache_kv` the layer writes its keys at pos_BT and reads all of the cache;
  with `prompt_kv` it reads the prompt's before its own.
  """
  c = config
  shape = x_BTD.shape[:2]
  x = sharding.tokens(sharding.constrain(x_BTD, "BTD"))
  y = layers.rms_norm(x, w["attn_norm_D"], eps=c.eps)
  q = jnp.einsum("...D,DNH->...NH", y, w["q_DNH"]) + w["q_bias_NH"]
  k = jnp.einsum("...D,DKH->...KH", y, w["k_DKH"]) + w["k_bias_KH"]
  v = jnp.einsum("...D,DKH->...KH", y, w["v_DKH"]) + w["v_bias_KH"]
  q, k, v = (heads.reshape(*shape, *heads.shape[-2:]) for heads in (q, k, v))
  q = layers.rope(q, pos_BT, theta=c.rope_theta)
  k = layers.rope(k, pos_BT, theta=c.rope_theta)
  kv = (k, v)
  if prompt_kv is not None:
    k = jnp.concatenate([prompt_kv[0], k], axis=1)
    v = jnp.concatenate([prompt_kv[1], v], axis=1)
  if cache_kv is not None:
    rows = jnp.arange(x_BTD.shape[0])[:, None]
    k_BKHS = cache_kv[0].at[rows, :, :, pos_BT].set(k, mode="drop")
    v_BKSH = cache_kv[1].at[rows, :, pos_BT].set(v, mode="drop")
    kv = (k_BKHS, v_BKSH)
    k = jnp.einsum("BKHS->BSKH", k_BKHS)
    v = jnp.einsum("BKSH->BSKH", v_BKSH)
  y = sharding.tokens(checkpoint_name(attend(q, k, v), "attention"))
  x = x + jnp.einsum("...NH,NHD->...D", y, w["out_NHD"])
  y = layers.rms_norm(x, w["mlp_norm_D"], eps=c.eps)
  y = layers.swiglu(y, w["gate_DF"], w["up_DF"], w["down_FD"])
  return (x + y).reshape(x_BTD.shape), kv


def _masked(mask_BTS):
  return functools.partial(attention_op.attention, mask_BTS=mask_BTS)


def continuations(x_BTD, next_BSD, w, valid_BT, config):
  """Runs each prompt once, and all that may follow against its keys.

  Args:
    x_BTD: embedded prompts.
    next_BSD: embedded continuations, prompt-major, as many to each prompt;
      column s stands at position (length of the prompt) + s.
    w: weights of `block`, stacked.
    valid_BT: the prompts' columns that hold a token.

  Returns:
    hidden states [rows of next_BSD, S + 1, D] without the final norm: of the
    prompt's last position, then of each column of next_BSD.
  """
  time, window = x_BTD.shape[1], next_BSD.shape[1]
  fork = functools.partial(
    jnp.repeat, repeats=len(next_BSD) // len(x_BTD), axis=0
  )
  len_B1 = valid_BT.sum(1, keepdims=True)
  pos_BT = jnp.broadcast_to(jnp.arange(time), valid_BT.shape)
  next_BS = fork(len_B1) + jnp.arange(window)
  # A key is read from its position on; padding stands behind them all.
  key_BT = jnp.where(valid_BT, pos_BT, time + window)
  key_BS = jnp.concatenate([fork(key_BT), next_BS], axis=1)
  attend = _masked(key_BT[:, None] <= pos_BT[..., None])
  attend_next = _masked(key_BS[:, None] <= next_BS[..., None])

  def step(carry, w):
    x, after = carry
    x, kv = block(x, w, pos_BT, attend, config)
    kv = jax.tree.map(fork, kv)
    after, _ = block(after, w, next_BS, attend_next, config, prompt_kv=kv)
    return (x, after), None

  step = rematerialised(step, config.remat)
  (x_BTD, next_BSD), _ = jax.lax.scan(step, (x_BTD, next_BSD), w)
  last_BSD = layers.columns(x_BTD, len_B1 - 1)
  return jnp.concatenate([fork(last_BSD), next_BSD], axis=1)


def logits(hidden_BTD, head, config: DecoderConfig):
  """logits_BTV in float32 from the head: head_DV, or embed_VD where tied."""
  axes = "BTD,VD->BTV" if config.tied else "BTD,DV->BTV"
  return jnp.einsum(
    axes, hidden_BTD, head, preferred_element_type=jnp.float32
  )


def unstack(params: dict) -> dict:
  """The decoder's parameters with "layers", a tuple of one dict a layer.

  Takes the stacks out of `params`, so that no more than one of them is held
  twice.  A layer lies on the devices as its stack did.
  """
  names = sorted(name for name in params if _stacked(name))
  layers: list[dict] = [{} for _ in range(len(params[names[0]]))]
  for name in names:
    leaf = params.pop(name)
    stem, axes = name.rsplit("_", 1)
    for i, layer in enumerate(layers):
      layer[f"{stem}_{axes[1:]}"] = _layer(leaf, i)
  return params | {"layers": tuple(layers)}


def _layer(leaf, i: int):
  if not isinstance(leaf, jax.Array):
    return leaf[i]
  # Not by iteration, which gathers what is split and puts it on one device.
  part = jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False)
  return jax.device_put(part, sharding.of_layer(leaf.sharding))


def _stacked(name: str) -> bool:
  return name.rsplit("_", 1)[-1].startswith("L")


class Decoder(nn.Module):
  """Embeddings to final hidden states; embedding and head are here too."""

  config: DecoderConfig

  def weights(self):
    """Block weights by name, each stacked on a leading layer axis."""
    c = self.config
    D, N, K, H, F = c.width, c.heads, c.kv_heads, c.head_dim, c.ffn
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    shapes = {
      "attn_norm_D": (ones, (D,)),
      "q_DNH": (layers.fan_in(D), (D, N, H)),
      "q_bias_NH": (zeros, (N, H)),
      "k_DKH": (layers.fan_in(D), (D, K, H)),
      "k_bias_KH": (zeros, (K, H)),
      "v_DKH": (layers.fan_in(D), (D, K, H)),
      "v_bias_KH": (zeros, (K, H)),
      "out_NHD": (layers.fan_in(2 * c.layers * N * H), (N, H, D)),
      "mlp_norm_D": (ones, (D,)),
      "gate_DF": (layers.fan_in(D), (D, F)),
      "up_DF": (layers.fan_in(D), (D, F)),
      "down_FD": (layers.fan_in(2 * c.layers * F), (F, D)),
    }

    def stacked(name):
      stem, axes = name.rsplit("_", 1)
      return f"{stem}_L{axes}"

    return {
      name: self.param(stacked(name), init, (c.layers, *shape))
      for name, (init, shape) in shapes.items()
    }

  @nn.compact
  def __call__(
    self,
    tokens_BT,
    splice,
    pos_BT=None,
    *,
    segment_BT=None,
    next_BS=None,
    cache=None,
    stack=None,
  ):
    """Runs the stack.

    Args:
      tokens_BT: ids.
      splice: function embed_BTD -> embed_BTD that puts audio in.
      pos_BT: positions; with a cache also the slots that are written.
        A position past the last slot writes nothing.
      segment_BT: which example of its row a column belongs to, 0 for none;
        a query reads the keys of its own before it.  Without a cache only.
      next_BS: ids of continuations of the rows, as `continuations` takes
        them; with `segment_BT`, and without a cache and `pos_BT`.
      cache: KVCache, or None for the whole-sequence program.
      stack: the "layers" of `unstack`, with a cache only; by default the
        stacked parameters.

    Returns:
      (hidden_BTD after the final norm, head for `logits`, cache); with
      `next_BS`, hidden_BSD of the states before each of its tokens.
    """
    c = self.config
    D, V = c.width, c.vocab
    embed_VD = self.param("embed_VD", layers.fan_in(D), (V, D))
    if c.tied:
      head = embed_VD
    else:
      head = self.param("head_DV", layers.fan_in(D), (D, V))
    norm_D = self.param("norm_D", nn.initializers.ones, (D,))
    w = self.weights() if stack is None else None
    x = splice(layers.take(embed_VD, tokens_BT))
    if next_BS is not None:
      # Nothing follows the last token.
      after = layers.take(embed_VD, next_BS[:, :-1])
      x = continuations(x, after, w, segment_BT > 0, c)
    elif cache is None:
      if segment_BT is None:
        segment_BT = jnp.ones_like(tokens_BT)
      attend = functools.partial(
        attention_op.causal,
        segment_BT=segment_BT,
        implementation=c.attention,
      )

      def step(x, w):
        return block(x, w, pos_BT, attend, c)[0], None

      x, _ = jax.lax.scan(rematerialised(step, c.remat), x, w)
    else:
      slots = cache.k_BKHS[0].shape[3]
      attend = _masked(jnp.arange(slots) <= pos_BT[..., None])
      buffers = []
      for i in range(c.layers):
        layer = stack[i] if stack else jax.tree.map(lambda a, i=i: a[i], w)
        kv = (cache.k_BKHS[i], cache.v_BKSH[i])
        x, kv = block(x, layer, pos_BT, attend, c, cache_kv=kv)
        buffers.append(kv)
      keys, values = zip(*buffers, strict=True)
      cache = KVCache(k_BKHS=keys, v_BKSH=values)
    return layers.rms_norm(x, norm_D, eps=c.eps), head, cache
