"""The encoder against a plain numpy version, and rows against padding."""

import functools
import math

import numpy as np
import pytest

from mgrd_jax.audio import features
from mgrd_jax.models import audio_encoder, audio_lm
from tests import toys

CONFIG = toys.CONFIG.encoder
ENCODE = toys.jit(functools.partial(audio_lm.encode, config=toys.CONFIG))
WEIGHTS = toys.params()["encoder"]
MELS = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)


def encode(mel_BRM, len_B):
  enc_BAE, enc_len_B = ENCODE(WEIGHTS, np.asarray(mel_BRM), np.asarray(len_B))
  return np.asarray(enc_BAE), np.asarray(enc_len_B)


def gelu(x):
  return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def norm(x, scale, bias):
  centred = x - x.mean(-1, keepdims=True)
  std = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
  return centred / std * scale + bias


def conv(x, kernel, bias, stride):
  """Width-3 convolution, padding 1, tap by tap."""
  padded = np.pad(x, ((1, 1), (0, 0)))
  rows = range(0, len(x), stride)
  return np.stack([
    sum(padded[at + tap] @ kernel[tap] for tap in range(3)) + bias
    for at in rows
  ])  # fmt: skip


def plain_encoder(mel_RM, mel_len):
  """The published equations for one clip without padding."""
  w = {k: np.asarray(a, np.float64) for k, a in WEIGHTS.items()}
  x = gelu(conv(mel_RM, w["conv1_RME"], w["conv1_bias_E"], 1))
  x = gelu(conv(x, w["conv2_REE"], w["conv2_bias_E"], 2))
  x = x + w["position_AE"][: len(x)]
  valid_R = np.arange(len(mel_RM)) < mel_len
  keep_A = valid_R[(len(mel_RM) + 1) % 2 :: 2]
  assert len(keep_A) == len(x)
  width = CONFIG.width // CONFIG.heads
  for i in range(CONFIG.layers):
    y = norm(x, w["attn_norm_LE"][i], w["attn_norm_bias_LE"][i])
    heads = []
    for n in range(CONFIG.heads):
      q = (y @ w["q_LENH"][i, :, n] + w["q_bias_LNH"][i, n]) * width**-0.25
      k = (y @ w["k_LENH"][i, :, n]) * width**-0.25
      v = y @ w["v_LENH"][i, :, n] + w["v_bias_LNH"][i, n]
      scores = np.where(keep_A, q @ k.T, -1e10)
      probs = np.exp(scores - scores.max(-1, keepdims=True))
      heads.append(probs / probs.sum(-1, keepdims=True) @ v)
    out = sum(h @ w["out_LNHE"][i, n] for n, h in enumerate(heads))
    x = x + out + w["out_bias_LE"][i]
    y = norm(x, w["mlp_norm_LE"][i], w["mlp_norm_bias_LE"][i])
    y = gelu(y @ w["up_LEF"][i] + w["up_bias_LF"][i])
    x = x + y @ w["down_LFE"][i] + w["down_bias_LE"][i]
  half = len(x) // 2
  pooled = (x[0 : 2 * half : 2] + x[1 : 2 * half : 2]) / 2
  return norm(pooled, w["norm_E"], w["norm_bias_E"])


@pytest.mark.parametrize("frames", [11, 12])
def test_the_encoder_follows_the_published_equations(frames):
  # Odd and even lengths take their key mask from different frames.
  mel_RM = MELS[:frames]
  enc_BAE, enc_len_B = encode(mel_RM[None], [frames - 2])
  # float32 against float64 over two blocks.
  np.testing.assert_allclose(
    enc_BAE[0], plain_encoder(mel_RM, frames - 2), atol=2e-5
  )
  assert enc_len_B == (frames - 1) // 2 // 2


def test_a_batch_of_one_is_a_batch_of_many():
  frames = (11, 12, 3)
  mel_BRM = np.zeros((len(frames), 15, 8), np.float32)
  for row, n in zip(mel_BRM, frames, strict=True):
    row[:n] = MELS[:n]
  enc_BAE, len_B = encode(mel_BRM, np.array(frames) - 2)
  for b, n in enumerate(frames):
    alone_BAE, alone_B = encode(MELS[None, :n], [n - 2])
    count = features.pooled_frames(n)
    assert alone_BAE.shape[1] == count and alone_B == len_B[b]
    np.testing.assert_allclose(enc_BAE[b, :count], alone_BAE[0], atol=2e-6)
    assert (enc_BAE[b, count:] == 0).all()


def test_positions_are_whispers_sinusoids():
  table_AE = audio_encoder.sinusoids(3, 4)
  slow = 1e-4  # the last of two rates, 10000^-1
  golden = [
    [math.sin(a), math.sin(a * slow), math.cos(a), math.cos(a * slow)]
    for a in range(3)
  ]
  np.testing.assert_allclose(table_AE, golden, atol=1e-6)
