"""Our log-mels against what WhisperFeatureExtractor once gave."""

import numpy as np

from mgrd_jax.audio import features
from tests import toys
from tests.parity import cases

KEPT = cases.stored("mel")
SAMPLES = np.array(cases.MEL_SAMPLES)
# Logarithms to base 10 of float32 powers, a quarter of them.
ATOL = 1e-4


def padded():
  wave_BW = np.zeros((len(SAMPLES), SAMPLES.max()), np.float32)
  for row, samples in zip(wave_BW, SAMPLES, strict=True):
    row[:samples] = cases.wave(samples, "mel", samples)
  return wave_BW


def test_the_mel_behind_479_zeros_is_whispers():
  mel_BRM = np.asarray(toys.jit(features.log_mel)(padded(), SAMPLES))
  for k, mel_RM in enumerate(mel_BRM):
    frames = int(KEPT[f"frames_{k}"])
    assert frames == features.mel_frames(SAMPLES[k])
    np.testing.assert_allclose(
      mel_RM[cases.mel_frames(frames)], KEPT[f"step_audio_{k}"], atol=ATOL
    )


def test_the_mel_of_30_seconds_is_whispers():
  mel_BRM = np.asarray(toys.jit(features.log_mel_30s)(padded(), SAMPLES))
  for k, mel_RM in enumerate(mel_BRM):
    length = int(KEPT["lengths"][k])
    assert length == features.encoder_input_len(SAMPLES[k])
    at_R = cases.mel_frames(length, len(mel_RM))
    np.testing.assert_allclose(
      mel_RM[at_R], KEPT[f"qwen2_audio_{k}"], atol=ATOL
    )
