"""Clips in memory: what a clip is does not depend on its batch."""

import jax
import numpy as np
import pytest

from mgrd_jax.audio import features, io
from mgrd_jax.data import clips, sources

LENGTHS = (8000, 3999, 12_345, 8001, 400)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
  """(store, refs, waves) of a shard with clips of unequal lengths."""
  folder = tmp_path_factory.mktemp("clips")
  rng = np.random.default_rng(0)
  waves = [rng.uniform(-0.5, 0.5, n).astype(np.float32) for n in LENGTHS]
  refs = sources.write_clips(folder / "clips.arrayrecord", waves)
  return sources.ClipStore(folder), refs, waves


def pooled(mel_BRM, len_B):
  """A stand-in for the encoder: means of four frames, 100 to 25 Hz."""
  frames = mel_BRM.shape[1] // 4
  enc = mel_BRM[:, : frames * 4].reshape(len(mel_BRM), frames, 4, -1).mean(2)
  return enc, len_B


def test_each_clip_has_the_mel_and_the_tokens_of_itself_alone(stored):
  store, refs, _ = stored
  log_mel = jax.jit(features.log_mel)
  shown = []
  found = clips.load(
    store, refs, log_mel, batch=2, progress=lambda *x: shown.append(x)
  )
  assert set(found) == set(refs) and shown[-1] == (5, 5)
  for ref, samples in zip(refs, LENGTHS, strict=True):
    clip = found[ref]
    assert clip.samples == samples
    assert clip.tokens == features.token_count(samples)
    assert clip.mel_RM.shape == (features.mel_frames(samples), features.MELS)
    wave_BW = np.zeros((2, -(-samples // 8000) * 8000), np.float32)
    wave_BW[0, :samples] = store.wave(ref)
    alone = log_mel(wave_BW, np.array([samples, 8000]))[0, : len(clip.mel_RM)]
    # Half precision: values up to 4 have steps of 2^-9.
    np.testing.assert_allclose(clip.mel_RM, alone, atol=2**-9)


def test_many_batches_at_a_time_give_what_one_at_a_time_gives():
  rng = np.random.default_rng(0)
  waves = [
    rng.normal(size=n).astype(np.float32) for n in rng.integers(400, 40_000, 9)
  ]
  program = jax.jit(features.log_mel)

  def found(workers):
    return list(clips.log_mels(waves, program, batch=2, workers=workers))

  (at, mels), (one_at, one_mels) = (
    zip(*found(w), strict=True) for w in (4, 1)
  )
  assert at == one_at and sorted(at) == list(range(9))
  for mel_RM, one_RM in zip(mels, one_mels, strict=True):
    np.testing.assert_array_equal(mel_RM, one_RM)


def test_states_are_cut_to_the_clips_own_length():
  rng = np.random.default_rng(1)
  frames = (30, 52, 29, 51)
  mels = [rng.normal(size=(n, 3)).astype(np.float16) for n in frames]
  made = {
    str(n): clips.Clip(mel, (n - 2) * features.HOP)
    for n, mel in zip(frames, mels, strict=True)
  }
  states = clips.encode(made, pooled, batch=3)
  for n, mel in zip(frames, mels, strict=True):
    padded = np.zeros((100, 3), np.float32)
    padded[:n] = mel
    golden, _ = pooled(padded[None], None)
    count = features.pooled_frames(n)
    assert states[str(n)].shape == (count, 3)
    np.testing.assert_allclose(states[str(n)], golden[0, :count], atol=1e-6)


def test_lengths_are_grouped_by_what_they_are_padded_to():
  groups = dict(clips.bucketed([5, 11, 9, 10, 1], 2, 10))
  assert groups[20] == [1]
  every = list(clips.bucketed([5, 11, 9, 10, 1], 2, 10))
  assert sorted(i for _, found in every for i in found) == [0, 1, 2, 3, 4]
  assert all(len(found) <= 2 for _, found in every)
  assert all(length % 10 == 0 for length, _ in every)


def test_a_clip_that_cannot_be_read_is_named(stored):
  store, refs, _ = stored
  with pytest.raises(io.AudioError, match="none.wav"):
    clips.load(store, [refs[0], "none.wav"], features.log_mel)
