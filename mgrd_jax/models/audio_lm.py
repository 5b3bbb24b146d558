"""The audio language model: encoder, adapter, decoder, as pure functions.

    mel_BRM -encode-> enc_BAE -adapter-> audio_BAD -splice into tokens-> logits

Parameters are one nested dict {"encoder", "adapter", "decoder"}; a critic
is the same dict with a "value" head.  Functions take what they need: the
steps of training hold no encoder, because it is frozen and its states are
in the batch.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from mgrd_jax.audio import features
from mgrd_jax.models import adapter as adapter_lib
from mgrd_jax.models import audio_encoder, layers, released
from mgrd_jax.models import decoder as decoder_lib
from mgrd_jax.models.released import Config
from mgrd_jax.types import Batch


def _tiny() -> Config:
  return Config(
    encoder=audio_encoder.EncoderConfig(
      width=96, heads=4, layers=2, ffn=288, positions=1500
    ),
    adapter=adapter_lib.AdapterConfig(96, 192, 96),
    decoder=decoder_lib.DecoderConfig(
      vocab=1024,
      width=96,
      layers=3,
      heads=4,
      kv_heads=2,
      head_dim=24,
      ffn=256,
      rope_theta=1e4,
    ),
  )


VARIANTS = {"tiny": _tiny} | {
  name: functools.partial(released.from_json, config)
  for name, config in released.PUBLISHED.items()
}


def config_for(variant: str, *, vocab: int) -> Config:
  """The sizes of a named variant, over a vocabulary of `vocab` ids.

  Raises:
    ValueError: an unknown variant.
  """
  if variant not in VARIANTS:
    raise ValueError(
      f"unknown model variant {variant!r}; have {sorted(VARIANTS)}"
    )
  config = VARIANTS[variant]()
  return dataclasses.replace(
    config, decoder=dataclasses.replace(config.decoder, vocab=vocab)
  )


class ValueHead(nn.Module):
  """hidden_BTD -> v_BT; zero weights, so the start is the bias alone."""

  @nn.compact
  def __call__(self, hidden_BTD):
    zeros = nn.initializers.zeros
    value_D = self.param("value_D", zeros, hidden_BTD.shape[-1:])
    bias = self.param("bias", zeros, ())
    return jnp.einsum("BTD,D->BT", hidden_BTD, value_D) + bias


def init(key, config: Config) -> dict:
  """Random parameters {"encoder", "adapter", "decoder"}; float32."""
  enc_key, ada_key, dec_key = jax.random.split(key, 3)
  frames = 2 * config.encoder.positions if config.encoder.fixed else 16
  mel = jnp.zeros((1, frames, config.encoder.mels))
  enc = jnp.zeros((1, 4, config.encoder.width))
  ids = jnp.zeros((1, 2), jnp.int32)
  return {
    "encoder": audio_encoder.Encoder(config.encoder).init(
      enc_key, mel, jnp.array([14])
    )["params"],
    "adapter": adapter_lib.Adapter(config.adapter).init(ada_key, enc)["params"],
    # Two tokens are enough to name the parameters, and fit no kernel's tiles.
    "decoder": decoder_lib.Decoder(
      dataclasses.replace(config.decoder, attention="reference")
    ).init(
      dec_key, ids, lambda x: x, jnp.zeros((1, 2), jnp.int32)
    )["params"],
  }


def abstract(config: Config, dtype=jnp.float32) -> dict:
  """The shapes of `init`, nothing allocated."""
  tree = jax.eval_shape(
    functools.partial(init, config=config), jax.random.key(0)
  )
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree)


def init_value_head(width: int, bias: float = 0.0) -> dict:
  """Value head with zero weights and the given bias (rl.md 6.5)."""
  return {"value_D": jnp.zeros((width,)), "bias": jnp.float32(bias)}


def convention(config: Config) -> str:
  """How the model counts a clip's placeholders: `features.token_count`'s."""
  if config.encoder.fixed:
    return "qwen2-audio"
  return "hf" if config.encoder.tail else "vllm"


def stride(config: Config) -> int:
  """How many of the encoder's 25 Hz states an audio token covers."""
  return 1 if config.adapter.kind == "linear" else 2


def enc_frames(samples: int, *, config: Config) -> int:
  """Frames A of the states of clips that are padded to `samples`."""
  if config.encoder.fixed:
    return features.pooled_frames(2 * config.encoder.positions)
  return features.pooled_frames(features.mel_frames(samples))


def log_mel(wave_BW, len_B, *, config: Config):
  """The front end that the encoder was trained on: mel_BRM."""
  front = features.log_mel_30s if config.encoder.fixed else features.log_mel
  return front(wave_BW, len_B)


def mel_len(len_B, *, config: Config):
  """Mel frames of clips of `len_B` samples that the encoder takes as valid."""
  if config.encoder.fixed:
    return features.encoder_input_len(len_B)
  return features.mel_frames(len_B) - config.encoder.tail


def encode(encoder_params, mel_BRM, mel_len_B, *, config: Config):
  """mel_BRM -> (enc_BAE, enc_len_B); the frozen half."""
  module = audio_encoder.Encoder(config.encoder)
  return module.apply({"params": encoder_params}, mel_BRM, mel_len_B)


def hear(encoder_params, wave_BW, len_B, *, config: Config, mel_dtype=None):
  """wave_BW -> (enc_BAE, enc_len_B): log-mel, its valid length, encoder.

  Args:
    mel_dtype: what training kept its log-mels in, if that rounds them.
  """
  mel_BRM = log_mel(wave_BW, len_B, config=config)
  if mel_dtype is not None:
    mel_BRM = mel_BRM.astype(mel_dtype).astype(jnp.float32)
  mel_len_B = mel_len(len_B, config=config)
  return encode(encoder_params, mel_BRM, mel_len_B, config=config)


def _splice(params, enc_BAE, config: Config):
  """audio_index_BT -> a function that puts audio in place of placeholders.

  The adapter runs here, once.
  """
  if enc_BAE.shape[0] == 0:
    return lambda audio_index_BT: lambda x: x
  module = adapter_lib.Adapter(config.adapter)
  audio_BAD = module.apply({"params": params["adapter"]}, enc_BAE)

  def splice(audio_index_BT, embed_BTD):
    # Each row reads its own clips: no device needs those of another's rows.
    own_BAD = audio_BAD.reshape(len(audio_index_BT), -1, audio_BAD.shape[-1])
    at_BT = jnp.maximum(audio_index_BT, 0)
    audio_BTD = jax.vmap(lambda own_AD, at_T: own_AD[at_T])(own_BAD, at_BT)
    audio_BTD = audio_BTD.astype(embed_BTD.dtype)
    return jnp.where((audio_index_BT >= 0)[..., None], audio_BTD, embed_BTD)

  return lambda audio_index_BT: functools.partial(splice, audio_index_BT)


def _hidden(params, batch: Batch, config: Config):
  splice = _splice(params, batch.enc_BAE, config)(batch.audio_index_BT)
  hidden_BTD, head, _ = decoder_lib.Decoder(config.decoder).apply(
    {"params": params["decoder"]},
    batch.tokens_BT,
    splice,
    positions(batch),
    segment_BT=segments(batch),
  )
  return hidden_BTD, head


def segments(batch: Batch):
  """segment_BT of a batch, packed or not: 0 where there is no token."""
  if batch.segment_BT is None:
    return jnp.asarray(batch.valid_BT, jnp.int32)
  return jnp.asarray(batch.segment_BT)


def positions(batch: Batch):
  """pos_BT, counted from the first column of each column's own example."""
  at_T = jnp.arange(batch.tokens_BT.shape[1])
  if batch.segment_BT is None:
    return jnp.broadcast_to(at_T, batch.tokens_BT.shape)
  segment_BT = segments(batch)
  new_BT = segment_BT != jnp.roll(segment_BT, 1, axis=1)
  start_BT = jnp.where(new_BT.at[:, 0].set(True), at_T, 0)
  return at_T - jax.lax.cummax(start_BT, axis=1)


def apply(params, batch: Batch, at_BS=None, *, config: Config):
  """logits_BTV of whole sequences; column t predicts token t + 1.

  With `at_BS` the head reads those columns alone: logits_BSV.
  """
  hidden_BTD, head = states(params, batch, at_BS, config=config)
  return decoder_lib.logits(hidden_BTD, head, config.decoder)


def states(params, batch: Batch, at_BS=None, *, config: Config):
  """(hidden_BTD, head) that `apply` makes its logits of.

  For `logprobs.head_logprobs`, which needs no logits: head_DV, or embed_VD
  where config.decoder.tied.
  """
  hidden_BTD, head = _hidden(params, batch, config)
  if at_BS is not None:
    hidden_BTD = layers.columns(hidden_BTD, at_BS)
  return hidden_BTD, head


def row_values(params, batch: Batch, *, config: Config):
  """v_BT of the critic at each column of whole rows, having read it."""
  hidden_BTD, _ = _hidden(params, batch, config)
  return ValueHead().apply({"params": params["value"]}, hidden_BTD)


def _before(params, prompts: Batch, token_BT, config: Config):
  splice = _splice(params, prompts.enc_BAE, config)(prompts.audio_index_BT)
  hidden_BTD, head, _ = decoder_lib.Decoder(config.decoder).apply(
    {"params": params["decoder"]},
    prompts.tokens_BT,
    splice,
    segment_BT=segments(prompts),
    next_BS=token_BT,
  )
  return hidden_BTD, head


def continuations(params, prompts: Batch, token_BT, *, config: Config):
  """logits_BTV of what follows each prompt; column t predicts token t.

  Those of whole rows [prompt, response], but each prompt runs once.

  Args:
    prompts: no row is empty.
    token_BT: responses, prompt-major, as many to each prompt, padded right.
  """
  hidden_BTD, head = _before(params, prompts, token_BT, config)
  return decoder_lib.logits(hidden_BTD, head, config.decoder)


def values(params, prompts: Batch, token_BT, *, config: Config):
  """v_BT of the critic before each token of the responses, which it may use.

  Arguments as those of `continuations`; audio is heard like text.
  """
  hidden_BTD, _ = _before(params, prompts, token_BT, config)
  return ValueHead().apply({"params": params["value"]}, hidden_BTD)


def unstack(params: dict) -> dict:
  """Parameters for `prefill` and `decode` alone, layer by layer.

  See `decoder.unstack`, which empties `params["decoder"]`.
  """
  return params | {"decoder": decoder_lib.unstack(params["decoder"])}


def _cached(params, tokens_BT, splice, pos_BT, cache, config: Config):
  rest = dict(params["decoder"])
  stack = rest.pop("layers", None)
  return decoder_lib.Decoder(config.decoder).apply(
    {"params": rest}, tokens_BT, splice, pos_BT, cache=cache, stack=stack
  )


def prefill(
  params, batch: Batch, *, config: Config, slots: int, block: int = 0
):
  """Fills a cache with the prompts; audio is spliced here, once.

  Args:
    block: most tokens that are run at once, so that the scores of attention
      are [N, block, S] and not [N, T, S]; 0 runs all of them.

  Returns:
    (logits_BV of each row's last valid position, KVCache of `slots`).
  """
  splice = _splice(params, batch.enc_BAE, config)
  rows, time = batch.tokens_BT.shape
  pos_BT = jnp.where(batch.valid_BT, jnp.arange(time), slots)
  dtype = params["decoder"]["embed_VD"].dtype
  cache = decoder_lib.empty_cache(config.decoder, rows, slots, dtype)
  if 0 < block < time:
    hidden_BTD, head, cache = _by_blocks(
      params, batch, splice, pos_BT, cache, config, block
    )
  else:
    splice = splice(batch.audio_index_BT)
    hidden_BTD, head, cache = _cached(
      params, batch.tokens_BT, splice, pos_BT, cache, config
    )
    last_B11 = (batch.valid_BT.sum(1) - 1)[:, None, None]
    hidden_BTD = jnp.take_along_axis(hidden_BTD, last_B11, axis=1)
  return decoder_lib.logits(hidden_BTD, head, config.decoder)[:, 0], cache


def _by_blocks(params, batch: Batch, splice, pos_BT, cache, config, block):
  """(hidden_BTD of the last position alone, head, cache).

  One program for any number of blocks.
  """
  rows, time = pos_BT.shape
  count = -(-time // block)
  block = -(-time // count)
  slots = cache.k_BKHS[0].shape[3]

  def blocks(x_BT, fill):
    pad = (0, 0), (0, count * block - time)
    x_BT = jnp.pad(x_BT, pad, constant_values=fill)
    return x_BT.reshape(rows, count, block).swapaxes(0, 1)

  last_B1 = batch.valid_BT.sum(1, keepdims=True) - 1

  def step(carry, xs):
    last_BD, cache = carry
    tokens_BT, audio_index_BT, pos_BT = xs
    hidden_BTD, _, cache = _cached(
      params, tokens_BT, splice(audio_index_BT), pos_BT, cache, config
    )
    # One position of one block is a row's last: a sum is a choice.
    keep_BT1 = (pos_BT == last_B1)[..., None]
    return (last_BD + jnp.where(keep_BT1, hidden_BTD, 0).sum(1), cache), None

  dtype = params["decoder"]["embed_VD"].dtype
  start = jnp.zeros((rows, config.decoder.width), dtype), cache
  # What is written at `slots` is dropped.
  xs = (
    blocks(batch.tokens_BT, 0),
    blocks(batch.audio_index_BT, -1),
    blocks(pos_BT, slots),
  )
  (last_BD, cache), _ = jax.lax.scan(step, start, xs)
  decoder = params["decoder"]
  head = decoder["embed_VD" if config.decoder.tied else "head_DV"]
  return last_BD[:, None], head, cache


def decode(params, token_B, pos_B, cache, *, config: Config):
  """One token a row: (logits_BV that predict the next one, cache)."""
  hidden_BTD, head, cache = _cached(
    params, token_B[:, None], lambda x: x, pos_B[:, None], cache, config
  )
  return decoder_lib.logits(hidden_BTD, head, config.decoder)[:, 0], cache
