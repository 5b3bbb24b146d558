"""The front end against WhisperFeatureExtractor, on equal padding."""

import numpy as np
import pytest

from mgrd_jax.audio import features
from tests import toys
from tests.parity import cases, generate, theirs

pytestmark = pytest.mark.parity
SAMPLES = (*cases.MEL_SAMPLES, 160, 399, 24_000, 47_999)
WAVES = [cases.wave(n, "mel", n) for n in SAMPLES]
# Logarithms to base 10 of float32 powers, a quarter of them.
ATOL = 1e-4


def padded(samples: int):
  wave_BW = np.zeros((len(WAVES), samples), np.float32)
  for row, wave_W in zip(wave_BW, WAVES, strict=True):
    row[: len(wave_W)] = wave_W
  return wave_BW, np.array(SAMPLES)


def test_step_audios_mel_is_whispers_behind_479_zeros():
  mel_BRM = np.asarray(toys.jit(features.log_mel)(*padded(48_000)))
  for mel_RM, wave_W in zip(mel_BRM, WAVES, strict=True):
    golden_RM = theirs.step_audio_mel(wave_W)
    assert len(golden_RM) == features.mel_frames(len(wave_W))
    found_RM, rest_RM = np.split(mel_RM, [len(golden_RM)])
    np.testing.assert_allclose(found_RM, golden_RM, atol=ATOL)
    assert (rest_RM == 0).all()


def test_qwen2_audios_mel_is_whispers_of_30_seconds():
  mel_BRM = np.asarray(toys.jit(features.log_mel_30s)(*padded(48_000)))
  golden_BRM, lengths = theirs.qwen2_audio_mel(WAVES)
  assert mel_BRM.shape == golden_BRM.shape == (len(WAVES), 3000, 128)
  np.testing.assert_allclose(mel_BRM, golden_BRM, atol=ATOL)
  for samples, length in zip(SAMPLES, lengths, strict=True):
    assert features.encoder_input_len(samples) == length


def test_the_stored_mels_are_what_the_class_gives():
  kept, made = cases.stored("mel"), generate.mel_arrays()
  assert kept.keys() == made.keys()
  for name in kept.keys() - {"versions"}:
    np.testing.assert_allclose(kept[name], made[name], atol=2e-5, err_msg=name)
