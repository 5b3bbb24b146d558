"""How far bfloat16 is from float32, in the logits of one model.

    clip, probe text --float32 | bfloat16--> logits_BTV --> largest difference

Norms and softmaxes are in float32 in both (system of the decoder: RMSNorm's
variance, attention's weights, logits); what differs is the rest.
"""

import dataclasses
import functools

import jax
import numpy as np

from experiments import verify
from mgrd_jax.audio import features
from mgrd_jax.data import transforms
from mgrd_jax.models import audio_lm
from mgrd_jax.text import chat

TEXT = 32  # ids before and behind the clip
# Of the products, by the parameters' dtype: an accelerator may multiply float32
# numbers in bfloat16 unless it is told otherwise.
PRECISION = {"float32": "highest", "bfloat16": None}


def chirp(seconds: float = 4.0) -> np.ndarray:
  """A clip for who has none at hand: 200 to 3,200 Hz, with some noise."""
  at = np.arange(int(seconds * features.RATE)) / features.RATE
  phase = 2 * np.pi * 200 * seconds / 4 * (2 ** (4 * at / seconds) - 1)
  noise = np.random.default_rng(0).normal(0, 0.01, len(at))
  return (0.3 * np.sin(phase / np.log(2)) + noise).astype(np.float32)


def _logits(params, wave_BW, len_B, batch, *, config):
  enc_BAE, _ = audio_lm.hear(params["encoder"], wave_BW, len_B, config=config)
  batch = dataclasses.replace(batch, enc_BAE=enc_BAE)
  return audio_lm.apply(params, batch, config=config)[0]


def _probe(config: audio_lm.Config, wave_W) -> chat.Row:
  """Drawn text around the clip; no tokenizer is needed."""
  count = features.token_count(len(wave_W), audio_lm.convention(config))
  if not count:
    raise ValueError("the clip is too short to be heard; give at least 0.1 s")
  most = min(config.decoder.vocab, config.patch_id)
  ids = np.random.default_rng(0).integers(1, most, 2 * TEXT)
  tokens = np.insert(ids, [TEXT] * count, config.patch_id).astype(np.int32)
  loss = np.zeros(len(tokens), bool)
  return chat.Row(tokens, loss, len(tokens), ((TEXT, count),))


def compare(folder, config: audio_lm.Config, wave_W) -> dict[str, float]:
  """Numbers of the difference between the two, over all positions.

  Args:
    folder: a checkpoint.
    config: of its model.
    wave_W: a clip of at most 25 s at 16 kHz.

  Returns:
    largest, mean: of |float32 - bfloat16| over all logits; largest_logit: of
    |float32|; same_top: share of positions whose likeliest id is the same;
    margin: the largest lead of a likeliest id in float32 that bfloat16 lost.

  Raises:
    ValueError: a logit is NaN or infinite.
  """
  row = _probe(config, wave_W)
  frames = audio_lm.enc_frames(len(wave_W), config=config)
  shape = transforms.Shape(
    len(row.tokens), 1, frames, config.encoder.width, audio_lm.stride(config)
  )
  enc_AE = np.zeros((frames, config.encoder.width), np.float32)
  batch = transforms.collate([transforms.Item(row, (enc_AE,))], shape)
  program = jax.jit(functools.partial(_logits, config=config))
  len_B = np.array([len(wave_W)], np.int32)
  out = {}
  for dtype, precision in PRECISION.items():
    params = verify.parameters(folder, config, dtype)
    with jax.default_matmul_precision(precision):
      logits_TV = program(params, np.asarray(wave_W)[None], len_B, batch)
    out[dtype] = np.asarray(logits_TV, np.float32)
    if not np.isfinite(out[dtype]).all():
      raise ValueError(
        f"{folder}: the logits in {dtype} are not finite; a weight is NaN or "
        "too large for it"
      )
    del params
  return _numbers(out["float32"], out["bfloat16"])


def _numbers(exact_TV, rough_TV) -> dict[str, float]:
  gap_TV = np.abs(exact_TV - rough_TV)
  top_T, rough_T = exact_TV.argmax(-1), rough_TV.argmax(-1)
  at_T = np.arange(len(top_T))
  lead_T = exact_TV[at_T, top_T] - exact_TV[at_T, rough_T]
  return {
    "largest": float(gap_TV.max()),
    "mean": float(gap_TV.mean()),
    "largest_logit": float(np.abs(exact_TV).max()),
    "same_top": float((top_T == rough_T).mean()),
    "margin": float(lead_T.max()),
  }
