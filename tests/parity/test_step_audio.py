"""Step-Audio's encoder and adapter, at every parity and length of input."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mgrd_jax.audio import features
from mgrd_jax.models import adapter, audio_lm, convert, released
from tests import toys
from tests.parity import cases, theirs

pytestmark = pytest.mark.parity
LENGTHS = range(3, 28)  # mel frames
ATOL = 5e-5  # float32, for numbers up to ten


@pytest.fixture(scope="module")
def both(folder_of):
  """(their model, our config and parameters) of one checkpoint."""
  folder = folder_of("step-audio-1")
  model = theirs.StepAudio(cases.CASES["step-audio-1"].config).load(folder)
  config = released.read(folder)
  params = convert.load(folder, config, dtype=jnp.float32)
  return model, config, params


@torch.no_grad()
def test_each_clip_of_a_padded_batch_is_encoded_as_if_alone(both):
  model, config, params = both
  mels = [cases.draw((n, 16), "encoder", n) for n in LENGTHS]
  mel_BRM = np.zeros((len(mels), max(LENGTHS) + 3, 16), np.float32)
  for row, mel_RM in zip(mel_BRM, mels, strict=True):
    row[: len(mel_RM)] = mel_RM
  encode = toys.jit(functools.partial(audio_lm.encode, config=config))
  adapt = toys.jit(adapter.Adapter(config.adapter).apply)
  valid_B = np.array(LENGTHS) - 2
  enc_BAE, len_B = encode(params["encoder"], mel_BRM, valid_B)
  audio_BAD = np.asarray(adapt({"params": params["adapter"]}, enc_BAE))
  for b, mel_RM in enumerate(mels):
    mel = torch.from_numpy(mel_RM.T.copy())[None]
    enc, enc_len = model.encoder(mel, torch.tensor([len(mel_RM) - 2]))
    audio, audio_len = model.adapter(enc, enc_len)
    assert int(len_B[b]) == int(enc_len)
    assert features.adapter_frames(int(len_B[b])) == int(audio_len)
    # All states that exist, valid or not: the adapter's kernel reads them.
    np.testing.assert_allclose(enc_BAE[b, : enc.shape[1]], enc[0], atol=ATOL)
    np.testing.assert_allclose(
      audio_BAD[b, : audio.shape[1]], audio[0], atol=ATOL
    )


@pytest.mark.parametrize("samples", [160, 1600, 1601, 16_000, 20_077, 24_001])
def test_a_wave_has_as_many_embeddings_as_placeholders(samples):
  # Of any weights: these are torch's own random ones.
  model = theirs.StepAudio(cases.CASES["step-audio-waves"].config)
  mel_RM = theirs.step_audio_mel(cases.wave(samples, "count"))
  assert len(mel_RM) == features.mel_frames(samples)
  with torch.no_grad():
    enc, audio = model.hear(mel_RM)
  frames = features.encoder_input_len(samples)
  assert len(enc) == features.encoder_frames(frames)
  assert len(audio) == features.token_count(samples)
