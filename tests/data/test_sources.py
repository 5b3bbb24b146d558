"""Clips from files and from shards are the same, and bad ones raise."""

import pickle

import numpy as np
import pytest

from mgrd_jax.audio import features, io
from mgrd_jax.data import schema, sources

SHORTEST = 321  # samples; two hops of 10 ms and one


def noise(seed, length=800):
  wave = np.random.default_rng(seed).uniform(-0.9, 0.9, length)
  # On the 16-bit grid, so that every way through a file is exact.
  return io.from_int16(io.to_int16(wave.astype(np.float32)))


@pytest.fixture
def folder(tmp_path):
  """Three clips, as files and as one shard."""
  waves = [noise(i, 800 + i) for i in range(3)]
  for i, wave in enumerate(waves):
    io.write_wav(tmp_path / f"{i}.wav", wave)
  sources.write_clips(tmp_path / "clips.arrayrecord", waves)
  return tmp_path


def test_a_shard_gives_back_each_wave_in_any_order(folder):
  store = sources.ClipStore(folder)
  for i in (2, 0, 1, 2):
    wave = store.wave(f"clips.arrayrecord#{i}")
    assert wave.dtype == np.float32
    np.testing.assert_array_equal(wave, noise(i, 800 + i))
    np.testing.assert_array_equal(wave, store.wave(f"{i}.wav"))


def test_refs_name_the_shard_and_the_record(tmp_path):
  refs = sources.write_clips(
    tmp_path / "x.arrayrecord", (noise(i) for i in range(2))
  )
  assert refs == ["x.arrayrecord#0", "x.arrayrecord#1"]
  assert [p.name for p in tmp_path.iterdir()] == ["x.arrayrecord"]


def test_int16_and_float_clips_are_stored_alike(tmp_path):
  wave = noise(0)
  sources.write_clips(tmp_path / "x.arrayrecord", [wave, io.to_int16(wave)])
  store = sources.ClipStore(tmp_path)
  np.testing.assert_array_equal(
    store.wave("x.arrayrecord#0"), store.wave("x.arrayrecord#1")
  )


def test_a_failing_write_leaves_nothing_behind(tmp_path):
  def waves():
    yield noise(0)
    raise RuntimeError("the source broke")

  with pytest.raises(RuntimeError, match="the source broke"):
    sources.write_clips(tmp_path / "x.arrayrecord", waves())
  with pytest.raises(ValueError, match="clip 1 is empty"):
    sources.write_clips(tmp_path / "x.arrayrecord", [noise(0), noise(0, 0)])
  with pytest.raises(ValueError, match="no clips"):
    sources.write_clips(tmp_path / "x.arrayrecord", [])
  with pytest.raises(ValueError, match="arrayrecord"):
    sources.write_clips(tmp_path / "x.wav", [noise(0)])
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "ref, reason",
  [
    ("gone.wav", "no such file"),
    ("gone.arrayrecord#0", "no such file"),
    ("clips.arrayrecord#3", "no such record"),
    ("text.arrayrecord#0", "no ArrayRecord of clips"),
    ("cut.arrayrecord#0", "no ArrayRecord of clips"),
    ("text.wav", "not audio that can be decoded"),
    ("long.wav", "too long"),
    ("long.arrayrecord#0", "too long"),
    ("short.wav", "too short"),
    ("short.arrayrecord#0", "too short"),
  ],
)
def test_a_clip_that_cannot_be_read_raises_its_reason(folder, ref, reason):
  (folder / "text.wav").write_text("no sound here\n" * 50)
  (folder / "text.arrayrecord").write_text("no records here\n" * 500)
  whole = (folder / "clips.arrayrecord").read_bytes()
  (folder / "cut.arrayrecord").write_bytes(whole[: len(whole) // 2])
  io.write_wav(folder / "long.wav", noise(0, 33_000))
  sources.write_clips(folder / "long.arrayrecord", [noise(0, 33_000)])
  io.write_wav(folder / "short.wav", noise(0, SHORTEST - 1))
  sources.write_clips(folder / "short.arrayrecord", [noise(0, SHORTEST - 1)])
  store = sources.ClipStore(folder, max_seconds=2)
  with pytest.raises(io.AudioError) as caught:
    store.wave(ref)
  assert caught.value.reason == reason
  example = schema.Example("a", "Q?", "x", "text", audio=("0.wav", ref))
  problems = sources.check_clips(store, example)
  assert [(p.field, p.reason) for p in problems] == [("audio", reason)]
  assert problems[0].fix.startswith(f"{caught.value.name}: ")


def test_the_shortest_clip_that_can_be_read_has_an_audio_token(folder):
  io.write_wav(folder / "shortest.wav", noise(0, SHORTEST))
  wave_W = sources.ClipStore(folder).wave("shortest.wav")
  assert len(wave_W) == SHORTEST
  assert features.token_count(SHORTEST) == 1
  assert features.token_count(SHORTEST - 1) == 0


def test_a_closed_or_pickled_store_reads_on(folder):
  store = sources.ClipStore(folder)
  first = store.wave("clips.arrayrecord#1")
  again = pickle.loads(pickle.dumps(store))
  np.testing.assert_array_equal(again.wave("clips.arrayrecord#1"), first)
  store.close()
  np.testing.assert_array_equal(store.wave("clips.arrayrecord#1"), first)
