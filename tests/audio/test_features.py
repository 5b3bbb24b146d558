"""The front end against published numbers, and rows against their padding.

The mel values and the table of token counts are those of the released
preprocessing code, computed once and written down.
"""

import jax
import numpy as np
import pytest

from mgrd_jax.audio import features

LOG_MEL = jax.jit(features.log_mel)


def sine(samples, hertz=440.0):
  return 0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / features.RATE)


def one(wave_W):
  """The log-mel of a clip alone."""
  wave_BW = np.asarray(wave_W, np.float32)[None]
  return np.asarray(LOG_MEL(wave_BW, np.array([len(wave_W)])))[0]


def test_the_mel_of_a_440_hz_sine_has_the_published_values():
  mel_RM = one(sine(16_000))
  assert mel_RM.shape == (102, 128)
  golden = {
    (50, 17): 1.33749,
    (50, 18): 1.48535,
    (50, 0): -0.51465,
    (50, 127): -0.51465,
    (0, 17): 1.17651,
    (101, 17): 0.27845,
  }
  # Five printed decimals; float32 sums in another order differ in the last.
  for at, value in golden.items():
    assert mel_RM[at] == pytest.approx(value, abs=3e-5), at
  assert mel_RM.max() == pytest.approx(1.48535, abs=3e-5)
  assert mel_RM.min() == pytest.approx(-0.51465, abs=3e-5)
  assert mel_RM.mean() == pytest.approx(-0.41531, abs=3e-5)


@pytest.mark.parametrize(
  "seconds, frames, mel, conv, pooled, hf, vllm",
  [
    (0.01, 1, 3, 2, 1, 0, 1),
    (0.10, 10, 12, 6, 3, 1, 2),
    (0.25, 25, 27, 14, 7, 3, 4),
    (1.0, 100, 102, 51, 25, 13, 13),
    (2.0, 200, 202, 101, 50, 25, 25),
    (10.0, 1000, 1002, 501, 250, 125, 125),
    (24.9, 2490, 2492, 1246, 623, 311, 312),
    (25.0, 2500, 2502, 1251, 625, 313, 313),
    (25.1, 2510, 2512, 1256, 628, 314, 314),
    (29.98, 2998, 3000, 1500, 750, 375, 375),
  ],
)
def test_frames_and_tokens_of_a_clip_are_those_of_the_table(
  seconds, frames, mel, conv, pooled, hf, vllm
):
  samples = round(seconds * features.RATE)
  assert features.encoder_input_len(samples) == frames
  assert features.mel_frames(samples) == mel
  assert features.conv_frames(mel) == conv
  assert features.pooled_frames(mel) == pooled
  assert features.token_count(samples) == hf
  assert features.token_count(samples, "vllm") == vllm


def test_the_two_conventions_differ_for_a_quarter_of_all_lengths():
  for frames in range(1, 2999):
    hf = features.token_count(frames * features.HOP)
    vllm = features.token_count(frames * features.HOP, "vllm")
    assert vllm - hf == (frames % 8 in (1, 2)), frames


def test_a_chunk_over_the_limit_is_refused_and_named():
  assert features.token_count(features.MAX_SAMPLES) == 375
  with pytest.raises(ValueError, match="479681 samples .* 479680"):
    features.token_count(features.MAX_SAMPLES + 1)
  with pytest.raises(ValueError, match="unknown token count convention"):
    features.token_count(16_000, "other")


def test_a_batch_of_one_is_a_batch_of_many():
  rng = np.random.default_rng(0)
  # Loud beside quiet, odd beside even, and one shorter than half a window.
  lengths = (4000, 3999, 2561, 150)
  gains = (1.0, 1e-3, 0.1, 0.5)
  waves = [
    (g * rng.normal(size=n)).astype(np.float32)
    for g, n in zip(gains, lengths, strict=True)
  ]
  # What lies past the end is ignored, whatever it is.
  wave_BW = rng.normal(size=(len(waves), 4800)).astype(np.float32)
  for row, wave_W in zip(wave_BW, waves, strict=True):
    row[: len(wave_W)] = wave_W
  mel_BRM = np.asarray(LOG_MEL(wave_BW, np.array(lengths)))
  for mel_RM, wave_W in zip(mel_BRM, waves, strict=True):
    frames = features.mel_frames(len(wave_W))
    np.testing.assert_allclose(mel_RM[:frames], one(wave_W), atol=1e-5)
    assert (mel_RM[frames:] == 0).all()


def test_silence_is_finite_and_flat():
  mel_RM = one(np.zeros(4000))
  np.testing.assert_allclose(mel_RM, (-10.0 + 4.0) / 4.0, atol=1e-6)


def test_long_audio_is_cut_into_consecutive_chunks_of_25_seconds():
  second = features.RATE
  assert features.chunks(7 * second) == [(0, 7 * second)]
  # An exact multiple leaves no empty chunk behind.
  assert features.chunks(50 * second) == [
    (0, 25 * second),
    (25 * second, 50 * second),
  ]
  spans = features.chunks(60 * second + 1)
  assert [b - a for a, b in spans] == [400_000, 400_000, 160_001]
  assert spans[0][0] == 0 and spans[-1][1] == 60 * second + 1
  assert all(a[1] == b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_the_filters_are_slaneys():
  filters_MW = features.mel_filters()
  assert filters_MW.shape == (128, 201)
  assert filters_MW.dtype == np.float32
  # Slaney's normalisation: triangles of unit area per Hz.
  hertz = features.RATE / features.N_FFT
  area_M = filters_MW[100:].sum(1) * hertz
  np.testing.assert_allclose(area_M, 1.0, atol=0.1)
