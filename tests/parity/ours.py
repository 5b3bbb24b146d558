"""What this library makes of a case's checkpoint and prompts; no torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mgrd_jax import types
from mgrd_jax.audio import features
from mgrd_jax.models import audio_lm, convert, released
from mgrd_jax.rollout import engine
from tests import toys
from tests.parity import cases


def mel(case: cases.Case):
  """(mel_BRM padded right, mel_len_B that the encoder masks by)."""
  if case.waves:
    waves = cases.waves(case)
    len_B = np.array([len(w) for w in waves], np.int32)
    wave_BW = np.zeros((len(waves), len_B.max()), np.float32)
    for row, wave_W in zip(wave_BW, waves, strict=True):
      row[: len(wave_W)] = wave_W
    if case.is_step_audio:
      return toys.jit(features.log_mel)(wave_BW, len_B), (len_B + 159) // 160
    return toys.jit(features.log_mel_30s)(wave_BW, len_B), (len_B + 159) // 160
  mels = cases.mels(case)
  frames = max(len(mel_RM) for mel_RM in mels)
  mel_BRM = np.zeros((len(mels), frames, mels[0].shape[1]), np.float32)
  for row, mel_RM in zip(mel_BRM, mels, strict=True):
    row[: len(mel_RM)] = mel_RM
  # Two frames of what is appended to a clip do not count as valid.
  tail = 2 if case.is_step_audio else 0
  return mel_BRM, np.array(case.lengths, np.int32) - tail


def counts(case: cases.Case, mel_len_B) -> list[int]:
  """Placeholders of each clip, as the front end counts them."""
  convention = "hf" if case.is_step_audio else "qwen2-audio"
  return [features.token_count(160 * int(n), convention) for n in mel_len_B]


def batch(case: cases.Case, enc_BAE, clip_counts) -> types.Batch:
  """The case's prompts as the model takes them."""
  tokens_BT, valid_BT, clip_BT, frame_BT = cases.prompts(case, clip_counts)
  a = enc_BAE.shape[1]
  per_clip = features.adapter_frames(a) if case.is_step_audio else a
  heard = [np.unique(clip_T[clip_T >= 0]) for clip_T in clip_BT]
  most = max(map(len, heard))
  # Every row has as many places for clips; what is left over is not read.
  places = [np.resize(row, most) if len(row) else [0] * most for row in heard]
  first_B1 = np.array([row.min(initial=len(enc_BAE)) for row in heard])[:, None]
  own_BT = (clip_BT - first_B1) * per_clip + frame_BT
  index_BT = np.where(clip_BT >= 0, own_BT, -1)
  return types.Batch(
    tokens_BT=jnp.asarray(tokens_BT),
    valid_BT=jnp.asarray(valid_BT),
    loss_mask_BT=jnp.zeros_like(valid_BT),
    audio_index_BT=jnp.asarray(index_BT, jnp.int32),
    enc_BAE=enc_BAE[np.concatenate(places).astype(int)],
  )


def logits(params, config, batch: types.Batch) -> np.ndarray:
  """Of every real position, row by row: [sum of lengths, V]."""
  apply = toys.jit(functools.partial(audio_lm.apply, config=config))
  return np.asarray(apply(params, batch))[np.asarray(batch.valid_BT)]


def greedy(params, config, batch: types.Batch) -> np.ndarray:
  """The most likely ids behind each prompt, from a cache: [B, NEW]."""
  generate = functools.partial(
    engine.generate,
    prefill=functools.partial(audio_lm.prefill, config=config),
    decode=functools.partial(audio_lm.decode, config=config),
    samples=1,
    max_new=cases.NEW,
    stop_id=-1,
    temperature=0.0,
  )
  request_B = jnp.arange(len(batch.tokens_BT))
  key = jax.random.key(0)
  token_BT, *_ = toys.jit(generate)(params, batch, request_B, key)
  return np.asarray(token_BT)


def run(case: cases.Case, folder) -> dict[str, np.ndarray]:
  """Everything that is compared: see `theirs.run`."""
  config = released.read(folder)
  return result(case, config, convert.load(folder, config, dtype=jnp.float32))


def result(case: cases.Case, config, params) -> dict[str, np.ndarray]:
  """The same of parameters in memory."""
  mel_BRM, mel_len_B = mel(case)
  encode = toys.jit(functools.partial(audio_lm.encode, config=config))
  enc_BAE, enc_len_B = encode(params["encoder"], mel_BRM, mel_len_B)
  clip_counts = counts(case, mel_len_B)
  prompts = batch(case, enc_BAE, clip_counts)
  enc = [x[:n] for x, n in zip(np.asarray(enc_BAE), enc_len_B, strict=True)]
  return {
    "counts": np.array(clip_counts),
    "enc": np.concatenate(enc),
    "logits": logits(params, config, prompts),
    "greedy": greedy(params, config, prompts),
  }


def assert_equal(found: dict, golden: dict, *, atol: float) -> None:
  """Counts and ids to the last one; arrays within `atol`."""
  np.testing.assert_array_equal(found["counts"], golden["counts"])
  for name in ("enc", "logits"):
    np.testing.assert_allclose(
      found[name], golden[name], rtol=0, atol=atol, err_msg=name
    )
  np.testing.assert_array_equal(found["greedy"], golden["greedy"])
