"""The clips: reproducible, in range, refused when they cannot be made."""

import itertools
import multiprocessing
import sys

import numpy as np
import pytest

from mgrd_jax.audio import synth

SPEECH = dict(
  voice="en-us+f2",
  pitch="high",
  contour="rising",
  rate="fast",
  loudness="loud",
  quality="clear",
)
MUSIC = dict(
  mode="major",
  tempo="fast",
  contour="rising",
  timbre="bright",
  dynamics="swelling",
  instrument="organ",
)


def rng(seed=0):
  return np.random.default_rng(seed)


def speak(text="the train leaves at seven", seed=0, **changes):
  pytest.importorskip("espeakng_loader")
  return synth.speech(text, **(SPEECH | changes), rng=rng(seed))


def level(wave_W):
  return np.sqrt(np.mean(np.square(wave_W)))


def assert_is_a_clip(wave_W):
  assert wave_W.dtype == np.float32 and wave_W.ndim == 1
  seconds = len(wave_W) / synth.RATE
  assert synth.MIN_SECONDS <= seconds <= synth.MAX_SECONDS
  assert np.abs(wave_W).max() < 1
  assert level(wave_W) > 1e-3


def test_splits_are_large_enough_and_hold_out_a_variant_and_an_accent():
  train = [name for name, split in synth.VOICES.items() if split == "train"]
  test = [name for name, split in synth.VOICES.items() if split == "test"]
  assert len(train) >= 12 and len(test) >= 4
  accents, variants = zip(*(name.split("+") for name in train), strict=True)
  assert len(set(accents)) >= 4 and len(set(variants)) >= 5
  for name in test:
    accent, variant = name.split("+")
    assert accent not in accents or variant not in variants
  splits = list(synth.INSTRUMENTS.values())
  assert splits.count("train") >= 6 and splits.count("test") >= 2


@pytest.mark.parametrize("voice", synth.VOICES)
def test_every_voice_speaks_and_differs_from_a_voice_without_variant(voice):
  wave_W = speak(voice=voice)
  assert_is_a_clip(wave_W)
  other = "en-us+f1" if voice != "en-us+f1" else "en-us+f4"
  assert not np.array_equal(wave_W, speak(voice=other))


@pytest.mark.parametrize("quality", synth.QUALITY)
def test_speech_is_the_same_for_the_same_seed_whatever_came_before(quality):
  first = speak(seed=3, quality=quality)
  speak("something quite different", voice="en-gb-scotland+steph")
  np.testing.assert_array_equal(first, speak(seed=3, quality=quality))
  assert not np.array_equal(first, speak(seed=4, quality=quality))


def test_a_spawned_worker_makes_the_same_clip():
  expected = speak(seed=5)
  context = multiprocessing.get_context("spawn")
  with context.Pool(1) as pool:
    got = pool.apply(speak, kwds={"seed": 5})
  np.testing.assert_array_equal(got, expected)


def test_slow_speech_lasts_longer_than_fast():
  slow, fast = speak(rate="slow"), speak(rate="fast")
  assert len(slow) > 1.2 * len(fast)


def test_loud_speech_is_ten_decibels_above_soft():
  assert level(speak(loudness="loud")) > 3.2 * level(speak(loudness="soft"))


def test_one_word_is_spoken():
  assert_is_a_clip(speak("wonderful", contour="falling"))


def test_text_that_does_not_fit_is_refused_with_its_length():
  pytest.importorskip("espeakng_loader")
  with pytest.raises(ValueError, match="does not fit 4 s"):
    speak("thank you for everything " * 3, rate="slow")
  with pytest.raises(ValueError, match="word"):
    speak("  ")


def test_absent_espeak_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, "espeakng_loader", None)
  with pytest.raises(ImportError, match=r"\[tiny\]"):
    synth.speech("hello there", **SPEECH, rng=rng())


@pytest.mark.parametrize(
  "name", ["voice", "pitch", "contour", "rate", "loudness", "quality"]
)
def test_unknown_speech_value_is_refused_by_name(name):
  with pytest.raises(ValueError, match=name):
    synth.speech("hello there", **(SPEECH | {name: "odd"}), rng=rng())


@pytest.mark.parametrize("instrument", synth.INSTRUMENTS)
def test_music_is_a_reproducible_clip(instrument):
  wave_W = synth.music(**(MUSIC | {"instrument": instrument}), rng=rng(1))
  assert_is_a_clip(wave_W)
  again = synth.music(**(MUSIC | {"instrument": instrument}), rng=rng(1))
  np.testing.assert_array_equal(wave_W, again)


@pytest.mark.parametrize("name", MUSIC)
def test_unknown_music_value_is_refused_by_name(name):
  with pytest.raises(ValueError, match=name):
    synth.music(**(MUSIC | {name: "odd"}), rng=rng())


def test_events_of_every_count_and_spacing_are_clips():
  choices = itertools.product(range(1, 7), synth.REGULARITY, synth.PITCH)
  for count, regularity, pitch in choices:
    kinds = tuple(rng(count).choice(synth.EVENT_KINDS, count))
    wave_W = synth.events(
      kinds=kinds, pitch=pitch, regularity=regularity, rng=rng(count)
    )
    assert_is_a_clip(wave_W)


def test_too_many_or_no_or_unknown_events_are_refused():
  kwargs = dict(pitch="high", regularity="regular", rng=rng())
  for kinds in ((), ("beep",) * 7, ("moo",)):
    with pytest.raises(ValueError):
      synth.events(kinds=kinds, **kwargs)
