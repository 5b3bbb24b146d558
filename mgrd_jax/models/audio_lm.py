"""The audio language model: encoder, adapter, decoder, as pure functions.

    mel_BRM -encode-> enc_BAE -adapter-> audio_BAD -splice into tokens-> logits

Parameters are one nested dict {"encoder", "adapter", "decoder"}; a critic
is the same dict with a "value" head.  Functions take what they need: the
steps of training hold no encoder, because it is frozen and its states are
in the batch.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from mgrd_jax.models import adapter as adapter_lib
from mgrd_jax.models import audio_encoder
from mgrd_jax.models import decoder as decoder_lib
from mgrd_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of the three parts."""

  encoder: audio_encoder.EncoderConfig
  adapter: adapter_lib.AdapterConfig
  decoder: decoder_lib.DecoderConfig


def _variant(encoder: dict, hidden: int, decoder: dict) -> Config:
  enc = audio_encoder.EncoderConfig(**encoder)
  return Config(
    encoder=enc,
    adapter=adapter_lib.AdapterConfig(enc.width, hidden, decoder["width"]),
    decoder=decoder_lib.DecoderConfig(**decoder),
  )


VARIANTS = {
  "tiny": lambda: _variant(
    dict(width=96, heads=4, layers=2, ffn=288, positions=1500),
    192,
    dict(
      vocab=1024,
      width=96,
      layers=3,
      heads=4,
      kv_heads=2,
      head_dim=24,
      ffn=256,
      rope_theta=1e4,
    ),
  ),
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
  mel = jnp.zeros((1, 16, config.encoder.mels))
  enc = jnp.zeros((1, 4, config.encoder.width))
  ids = jnp.zeros((1, 2), jnp.int32)
  return {
    "encoder": audio_encoder.Encoder(config.encoder).init(
      enc_key, mel, jnp.array([14])
    )["params"],
    "adapter": adapter_lib.Adapter(config.adapter).init(ada_key, enc)["params"],
    "decoder": decoder_lib.Decoder(config.decoder).init(
      dec_key, ids, lambda x: x, jnp.zeros((1, 2), jnp.int32)
    )["params"],
  }


def init_value_head(width: int, bias: float = 0.0) -> dict:
  """Value head with zero weights and the given bias (rl.md 6.5)."""
  return {"value_D": jnp.zeros((width,)), "bias": jnp.float32(bias)}


def encode(encoder_params, mel_BRM, mel_len_B, *, config: Config):
  """mel_BRM -> (enc_BAE, enc_len_B); the frozen half."""
  module = audio_encoder.Encoder(config.encoder)
  return module.apply({"params": encoder_params}, mel_BRM, mel_len_B)


def _splice(params, audio_index_BT, enc_BAE, config: Config):
  """A function that overwrites placeholder embeddings with audio."""
  if enc_BAE.shape[0] == 0:
    return lambda x: x
  module = adapter_lib.Adapter(config.adapter)
  audio_BAD = module.apply({"params": params["adapter"]}, enc_BAE)
  flat_AD = audio_BAD.reshape(-1, audio_BAD.shape[-1])

  def splice(embed_BTD):
    audio_BTD = flat_AD[jnp.maximum(audio_index_BT, 0)]
    return jnp.where((audio_index_BT >= 0)[..., None], audio_BTD, embed_BTD)

  return splice


def _hidden(params, batch: Batch, config: Config):
  splice = _splice(params, batch.audio_index_BT, batch.enc_BAE, config)
  time = batch.tokens_BT.shape[1]
  pos_BT = jnp.broadcast_to(jnp.arange(time), batch.tokens_BT.shape)
  hidden_BTD, head_DV, _ = decoder_lib.Decoder(config.decoder).apply(
    {"params": params["decoder"]},
    batch.tokens_BT,
    splice,
    pos_BT,
    valid_BT=batch.valid_BT,
  )
  return hidden_BTD, head_DV


def apply(params, batch: Batch, at_BS=None, *, config: Config):
  """logits_BTV of whole sequences; column t predicts token t + 1.

  With `at_BS` the head reads those columns alone: logits_BSV.
  """
  hidden_BTD, head_DV = _hidden(params, batch, config)
  if at_BS is not None:
    hidden_BTD = jnp.take_along_axis(hidden_BTD, at_BS[..., None], axis=1)
  return jnp.einsum("BTD,DV->BTV", hidden_BTD, head_DV)


def values(params, batch: Batch, *, config: Config):
  """v_BT of the critic at every position, audio heard like text."""
  hidden_BTD, _ = _hidden(params, batch, config)
  return ValueHead().apply({"params": params["value"]}, hidden_BTD)


def prefill(params, batch: Batch, *, config: Config, slots: int):
  """Fills a cache with the prompts; audio is spliced here, once.

  Returns:
    (logits_BV of each row's last valid position, KVCache of `slots`).
  """
  splice = _splice(params, batch.audio_index_BT, batch.enc_BAE, config)
  rows, time = batch.tokens_BT.shape
  pos_BT = jnp.where(batch.valid_BT, jnp.arange(time), slots)
  dtype = params["decoder"]["embed_VD"].dtype
  cache = decoder_lib.empty_cache(config.decoder, rows, slots, dtype)
  hidden_BTD, head_DV, cache = decoder_lib.Decoder(config.decoder).apply(
    {"params": params["decoder"]},
    batch.tokens_BT,
    splice,
    pos_BT,
    cache=cache,
  )
  last_B = batch.valid_BT.sum(1) - 1
  hidden_BD = hidden_BTD[jnp.arange(rows), last_B]
  return jnp.einsum("BD,DV->BV", hidden_BD, head_DV), cache


def decode(params, token_B, pos_B, cache, *, config: Config):
  """One token a row: (logits_BV that predict the next one, cache)."""
  hidden_BTD, head_DV, cache = decoder_lib.Decoder(config.decoder).apply(
    {"params": params["decoder"]},
    token_B[:, None],
    lambda x: x,
    pos_B[:, None],
    cache=cache,
  )
  return jnp.einsum("BD,DV->BV", hidden_BTD[:, 0], head_DV), cache
