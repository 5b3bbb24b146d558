"""Silence, noise, swaps and transcript twins."""

import dataclasses

import numpy as np
import pytest

from mgrd_jax.audio import measure
from mgrd_jax.grounding import controls


@dataclasses.dataclass(frozen=True)
class Item:
  id: str
  question: str
  answer: str
  options: tuple[str, ...]
  audio: tuple[str, ...] = ("a.wav",)
  transcript: str | None = None
  meta: dict = dataclasses.field(default_factory=dict)


def wave(size=40001):
  rng = np.random.default_rng(0)
  return (0.1 * rng.standard_normal(size)).astype(np.float32)


@pytest.mark.parametrize("size", [0, 1, 24000, 40001])
def test_nulls_have_the_length_and_type_of_the_clip(size):
  wave_W = wave(size)
  for null_W in (
    controls.silence(wave_W),
    controls.noise(wave_W, np.random.default_rng(1)),
  ):
    assert null_W.shape == wave_W.shape and null_W.dtype == wave_W.dtype


def test_silence_is_digital_and_leaves_the_clip_alone():
  wave_W = wave()
  assert not controls.silence(wave_W).any()
  assert wave_W.any()


def test_noise_has_the_rms_of_the_clip_and_nothing_else_of_it():
  wave_W = wave()
  null_W = controls.noise(wave_W, np.random.default_rng(1))
  assert null_W.std() == pytest.approx(wave_W.std(), rel=1e-3)
  assert abs(np.corrcoef(wave_W, null_W)[0, 1]) < 0.05
  facts = measure.facts(null_W)
  # Speech-shaped: dark in comparison with white noise, and not voiced.
  assert facts["centroid_hz"] < 1500 < measure.facts(wave_W)["centroid_hz"]
  assert facts["harmonicity"] < 0.6
  other = controls.noise(wave_W, np.random.default_rng(2))
  assert not np.array_equal(null_W, other)


def test_partners_share_the_question_and_differ_in_gold():
  options = ("happy", "sad", "calm")
  items = [
    Item(str(i), "How?" if i < 8 else "What?", options[i % 3], options)
    for i in range(16)
  ]
  partners = controls.swap_partners(items, np.random.default_rng(0))
  for item, partner in zip(items, partners, strict=True):
    other = items[partner]
    assert other.question == item.question and other.answer != item.answer
    assert other.answer in item.options
  assert len({partners[i] for i in range(8)}) > 2


def test_the_same_option_set_wins_over_gold_among_the_options():
  items = [
    Item("0", "How?", "a", ("a", "b")),
    Item("1", "How?", "b", ("b", "c")),
    Item("2", "How?", "b", ("b", "a")),
  ]
  assert controls.swap_partners(items, np.random.default_rng(0))[0] == 2
  assert controls.swap_partners(items[:2], np.random.default_rng(0))[0] == 1


def test_items_without_partner_get_none():
  items = [
    Item("0", "How?", "a", ("a", "b")),
    Item("1", "How?", "a", ("a", "b")),
    Item("2", "How?", "c", ("c", "d")),
    Item("3", "How?", "b", ("a", "b"), audio=("a.wav", "b.wav")),
  ]
  partners = controls.swap_partners(items, np.random.default_rng(0))
  assert partners == [None, None, None, None]


def test_transcript_twin_says_the_words_and_has_no_clip():
  item = Item("0", "How?", "a", ("a", "b"), transcript="the train leaves")
  twin = controls.transcript_twin(item)
  assert twin.audio == () and twin.answer == "a"
  assert "the train leaves" in twin.question and "How?" in twin.question
  bare = dataclasses.replace(item, transcript=None)
  assert controls.transcript_twin(bare) is None
