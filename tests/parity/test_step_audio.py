"""Step-Audio's encoder and adapter, at every parity and length of input.

Where transformers has the same network, as Qwen2-Audio's, its class is held
to both: the one that is written in `theirs` and ours.
"""

import functools
import re

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from mgrd_jax.audio import features
from mgrd_jax.models import adapter, audio_lm, convert, released
from tests import toys
from tests.parity import cases, theirs

pytestmark = pytest.mark.parity
LENGTHS = range(3, 28)  # mel frames
ATOL = 5e-5  # float32, for numbers up to ten
# A part of Step-Audio's name of a tensor -> of transformers' (system.md 2.7).
RENAMED = {
  r"^encoder\.": "",
  r"^positional_embedding": "embed_positions",
  r"^blocks": "layers",
  r"attn\.(query|key|value)": lambda found: f"self_attn.{found[1][0]}_proj",
  r"attn\.out": "self_attn.out_proj",
  r"attn_ln": "self_attn_layer_norm",
  r"mlp\.0": "fc1",
  r"mlp\.2": "fc2",
  r"mlp_ln": "final_layer_norm",
  r"after_norm": "layer_norm",
}


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


def qwen2_audio_encoder(folder, case) -> transformers.Qwen2AudioEncoder:
  """transformers' class with the encoder's weights of a Step-Audio folder."""
  audio = case.config["audio_encoder_config"]
  config = transformers.Qwen2AudioEncoderConfig(
    num_mel_bins=audio["n_mels"],
    encoder_layers=audio["n_audio_layer"],
    encoder_attention_heads=audio["n_audio_head"],
    encoder_ffn_dim=4 * audio["n_audio_state"],
    d_model=audio["n_audio_state"],
    max_source_positions=audio["n_audio_ctx"],
  )
  state = {}
  for name, x in theirs.tensors(folder).items():
    if name.startswith("encoder."):
      for pattern, other in RENAMED.items():
        name = re.sub(pattern, other, name)
      state[name] = x
  model = transformers.Qwen2AudioEncoder(config).eval()
  # Strict: every tensor of either side has one of the other.
  model.load_state_dict(state)
  return model


@torch.no_grad()
def test_3000_frames_give_the_states_of_qwen2_audios_encoder(tmp_path):
  """One set of weights, no mask: the states before either's adapter.

  Both pool and then norm, over a table of 1500 positions; 3000 frames are
  what transformers' class takes, and as the server counts them all are valid.
  """
  config = cases.step_audio(4, 4, mels=128, positions=1500)
  case = cases.Case("step-audio-3000", config, rows=())
  cases.write(tmp_path, case, theirs.shapes(case))
  mel_BRM = case.draw((2, 3000, 128), "mel")
  mel = torch.from_numpy(mel_BRM.transpose(0, 2, 1).copy())
  golden_BAE = qwen2_audio_encoder(tmp_path, case)(mel).last_hidden_state
  assert golden_BAE.shape == (2, 750, 32)

  config = released.as_served(released.read(tmp_path))
  params = convert.load(tmp_path, config, dtype=jnp.float32)
  encode = toys.jit(functools.partial(audio_lm.encode, config=config))
  enc_BAE, len_B = encode(params["encoder"], mel_BRM, np.array([3000, 3000]))
  assert len_B.tolist() == [750, 750]
  np.testing.assert_allclose(enc_BAE, golden_BAE, rtol=0, atol=1e-4)

  written = theirs.StepAudio(case.config).load(tmp_path).encoder
  own_BAE, _ = written(mel, torch.tensor([3000, 3000]))
  np.testing.assert_allclose(own_BAE, golden_BAE, rtol=0, atol=1e-4)
