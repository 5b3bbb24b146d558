"""The built-in set: splits that do not leak, flags that are true.

Plans and questions need no audio; one small set is rendered for real.
"""

import collections
import inspect
import os
import pathlib

import numpy as np
import pytest

from mgrd_jax import paths
from mgrd_jax.audio import synth
from mgrd_jax.data import lexicon, schema, sources, synthetic, workers
from mgrd_jax.grounding import claims
from mgrd_jax.rewards import answers
from mgrd_jax.text import tokenizer

KINDS = ("voice", "music", "events", "order", "sums", "logic")
EACH = dict.fromkeys(KINDS, 120)
SIZES = synthetic.Sizes(train=EACH, pool=EACH, test=EACH, text=10)
WORLD = lexicon.draw_world(0)


def asked(seed=0, labelled=0.5):
  """Planned clips by ref, and the questions on them."""
  clips = synthetic.plan(SIZES, seed, WORLD)
  refs = [f"clips.arrayrecord#{i}" for i in range(len(clips))]
  seconds = [2.0] * len(clips)
  rows = synthetic.questions(
    clips, refs, seconds, WORLD, seed=seed, labelled=labelled
  )
  return dict(zip(refs, clips, strict=True)), list(rows)


CLIPS, ROWS = asked()
LABELS = [row for row in ROWS if row.source == "label"]


def test_plans_and_questions_depend_on_the_seed_alone():
  clips, rows = asked()
  assert clips == CLIPS and rows == ROWS
  assert asked(seed=1)[1] != ROWS


def test_held_out_combinations_are_asked_for_in_the_test_split_only():
  splits = collections.defaultdict(set)
  for row in LABELS:
    family = lexicon.FAMILIES[row.meta["family"]]
    truth = WORLD.is_heldout(family, row.meta["facts"])
    assert row.meta["heldout"] == truth
    splits[row.split].add(truth)
  assert splits == {"train": {False}, "pool": {False}, "test": {True, False}}
  # Their sound is perceived in training nevertheless.
  heard = [
    r for r in ROWS if r.split == "train" and r.source == "caption"
    and WORLD.is_heldout(lexicon.FAMILIES[r.meta["family"]], r.meta["facts"])
  ]  # fmt: skip
  assert len(heard) > 20


def test_voices_phrases_and_instruments_of_the_test_are_new():
  found = collections.defaultdict(lambda: collections.defaultdict(set))
  for clip in CLIPS.values():
    part = "test" if clip.split == "test" else "train"
    if clip.kind in ("voice", "music"):
      found[clip.kind][part].add(clip.voice)
    if clip.kind == "voice":
      found["phrase"][part].add(clip.words)
  assert set(found) == {"voice", "music", "phrase"}
  for kind, parts in found.items():
    assert parts["train"] and parts["test"], kind
    assert not parts["train"] & parts["test"], kind
  assert {synth.VOICES[v] for v in found["voice"]["test"]} == {"test"}
  assert {synth.INSTRUMENTS[v] for v in found["music"]["train"]} == {"train"}


def test_training_phrases_of_the_text_are_not_those_of_the_test():
  for label in lexicon.VOICE.labels:
    train, test = (lexicon.phrases(label, p) for p in ("train", "test"))
    assert train and test and not set(train) & set(test)


def test_the_conflict_flag_and_the_tempting_option_are_right():
  conflicts = 0
  for row in LABELS:
    suggested = row.meta["suggests"]
    truth = bool(suggested) and suggested != row.answer
    assert row.meta["conflict"] == truth
    assert (row.meta["family"] == "voice") == bool(suggested)
    if suggested:
      phrases = lexicon.PHRASES[suggested].split("|")
      assert row.transcript in phrases
    if truth:
      conflicts += 1
      assert suggested in row.options and row.answer in row.options
  voices = sum(row.meta["family"] == "voice" for row in LABELS)
  assert conflicts > 0.7 * voices


def test_labels_follow_the_rule_and_options_hold_the_gold_once():
  for row in LABELS:
    family = lexicon.FAMILIES[row.meta["family"]]
    assert row.answer == WORLD.label(family, row.meta["facts"])
    assert sorted(row.options) == sorted(family.labels)
  for row in ROWS:
    assert not schema.problems(schema.to_json(row)), row
    if row.options:
      assert row.options.count(row.answer) == 1
    assert answers.match(
      row.answer, row.answer, answer_type=row.answer_type, options=row.options
    ), row


def test_sentences_and_orders_of_the_test_are_heard_nowhere_else():
  for kind in ("sums", "logic", "order"):
    heard = {"test": set(), "train": set(), "pool": set()}
    for clip in CLIPS.values():
      if clip.kind == kind:
        heard[clip.split].add(clip.words or clip.kinds)
    assert all(len(said) > 10 for said in heard.values())
    assert not heard["test"] & (heard["train"] | heard["pool"])


def test_the_place_of_an_option_does_not_give_the_answer_away():
  for family in lexicon.FAMILIES.values():
    rows = [row for row in LABELS if row.meta["family"] == family.name]
    place = collections.Counter(row.options.index(row.answer) for row in rows)
    expected = len(rows) / len(family.labels)
    for at in range(len(family.labels)):
      assert place[at] == pytest.approx(expected, abs=4 * expected**0.5)


def test_facts_and_answers_are_those_of_the_clip():
  for row in ROWS:
    clips = [CLIPS[ref] for ref in row.audio]
    assert {clip.split for clip in clips} == {row.split}
    if row.source == "compare":
      assert row.meta["clips"] == [clip.facts for clip in clips]
      name, high = next(
        (name, high) for name, (question, high) in lexicon.COMPARE.items()
        if question == row.question
      )  # fmt: skip
      at = ("first", "second").index(row.answer)
      assert clips[at].facts[name] == high != clips[1 - at].facts[name]
      continue
    if row.source == "pair":
      first, second = claims.parse(row.answer)
      assert (first.clip, second.clip) == (0, 1)
      assert first.attribute == second.attribute in lexicon.COMPARE
      for claim, clip in zip((first, second), clips, strict=True):
        assert claim.value == clip.facts[claim.attribute]
      continue
    (clip,) = clips
    assert row.meta["facts"] == clip.facts
    if row.source == "attribute":
      assert row.answer == clip.facts[row.meta["attribute"]]
    if row.source == "count":
      assert row.answer == clip.facts["count"] == str(len(clip.kinds))
    if row.source == "transcript":
      assert row.answer == (clip.words or " ".join(clip.kinds))
    if row.source == "order":
      assert row.answer == " then ".join(clip.kinds)


def test_every_task_occurs_in_train_and_ids_are_distinct():
  by_split = collections.defaultdict(set)
  for row in ROWS:
    by_split[row.split].add(row.source)
  assert by_split["train"] >= {
    "label", "attribute", "caption", "transcript", "count", "order", "sums",
    "logic", "compare", "pair",
  }  # fmt: skip
  perception = {"caption", "transcript", "pair"}
  assert not perception & (by_split["pool"] | by_split["test"])
  assert len({row.id for row in ROWS}) == len(ROWS)


def test_the_labelled_share_is_of_training_clips_only():
  def count(labelled, split):
    rows = asked(labelled=labelled)[1]
    return sum(r.source == "label" and r.split == split for r in rows)

  none, half, full = (count(share, "train") for share in (0.0, 0.5, 1.0))
  assert none == 0 and full > 150
  assert half == pytest.approx(full / 2, rel=0.3)
  assert count(0.0, "test") > 150


def test_the_cache_key_names_all_that_the_set_depends_on():
  other = synthetic.Sizes(train=EACH, pool=EACH, test=EACH, text=11)
  keys = [
    synthetic.cache_key(sizes, seed, labelled)
    for sizes, seed, labelled in (
      (SIZES, 0, 0.5), (SIZES, 1, 0.5), (SIZES, 0, 0.4), (other, 0, 0.5),
    )
  ]  # fmt: skip
  assert len(set(keys)) == 4
  assert keys[0] == synthetic.cache_key(SIZES, 0, 0.5)


@pytest.mark.parametrize("module", [synthetic, *synthetic.MAKERS])
def test_code_that_makes_the_set_is_part_of_its_cache_key(
  module, monkeypatch, tmp_path
):
  before = synthetic.cache_key(SIZES, 0, 0.5)
  edited = tmp_path / "edited.py"
  source = pathlib.Path(module.__file__).read_text()
  edited.write_text(source.replace("0", "1", 1))
  monkeypatch.setattr(module, "__file__", str(edited))
  assert synthetic.cache_key(SIZES, 0, 0.5) != before


def test_no_module_that_makes_the_set_is_left_out_of_its_cache_key():
  makers = {synthetic, *synthetic.MAKERS}
  for module in makers:
    imported = filter(inspect.ismodule, vars(module).values())
    own = {m for m in imported if m.__name__.startswith("mgrd_jax.")}
    # The schema reads there which texts a row may not hold; the others say
    # where a set is made.
    assert own - makers <= {tokenizer, paths, workers}, module.__name__


def test_a_small_set_is_rendered_and_reads_back_without_refusals(tmp_path):
  pytest.importorskip("espeakng_loader")
  two = {"voice": 4, "music": 2, "events": 2, "order": 1, "sums": 1, "logic": 1}
  sizes = synthetic.Sizes(train=two, pool=two, test=two, text=5)
  shown = []
  manifest = synthetic.build(
    tmp_path, sizes, seed=0, workers=1, progress=lambda *x: shown.append(x)
  )
  assert shown[-1] == (33, 33)
  rows, refusals = schema.read_manifest(manifest)
  assert not refusals
  assert {row.split for row in rows} == {"train", "pool", "test"}
  store = sources.ClipStore(manifest.parent)
  clips = synthetic.plan(sizes, 0, WORLD)
  for at in (0, 5, 7, 9, 32):
    wave_W = store.wave(f"clips.arrayrecord#{at}")
    again_W = synthetic.render(clips[at], (0, 13, at))
    # One rounding to 16 bits.
    np.testing.assert_allclose(wave_W, np.clip(again_W, -1, 1), atol=1e-4)
    assert 0.5 < len(wave_W) / synth.RATE < 6 and np.abs(wave_W).max() > 0.01
  # A set that is there is found, not made.
  stamp = os.stat(manifest).st_mtime_ns
  assert synthetic.build(tmp_path, sizes, seed=0) == manifest
  assert os.stat(manifest).st_mtime_ns == stamp
