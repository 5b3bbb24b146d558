"""Swaps: whose clip may stand in for an example's own."""

import dataclasses

import numpy as np

from mgrd_jax.grounding import controls


@dataclasses.dataclass(frozen=True)
class Item:
  id: str
  question: str
  answer: str
  options: tuple[str, ...]
  audio: tuple[str, ...] = ("a.wav",)


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
