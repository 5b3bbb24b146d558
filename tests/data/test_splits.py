"""What the splits of a manifest do is said, not left to be found out."""

import pytest

from mgrd_jax.data import splits
from mgrd_jax.data.schema import Example


def row(split, *audio):
  return Example(f"{split}-{audio}", "Q?", "a", "text", audio, split=split)


PLAIN = [row("train", "a.wav"), row("pool", "p.wav"), row("test", "b.wav")]


def told(*rows):
  return {d.reason: (d.rows, d.fix) for d in splits.doubts([*PLAIN, *rows])}


def test_a_plain_manifest_raises_no_doubt():
  assert not told() and splits.used(PLAIN) == PLAIN
  # A clip of several rows, and of train and pool, is as it should be.
  assert not told(row("train", "a.wav"), row("pool", "a.wav"))


def test_rows_that_no_stage_reads_are_counted_by_split():
  odd = [row("dev", "c.wav"), row("Test", "d.wav"), row("dev", "e.wav")]
  count, fix = told(*odd)["split is not read"]
  assert count == 3 and "'Test', 'dev'; write train, test or pool" in fix
  assert splits.used([*odd, *PLAIN]) == PLAIN


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_manifest_without_a_split_says_what_follows(split):
  rows = [r for r in PLAIN if r.split != split]
  (doubt,) = splits.doubts(rows)
  assert doubt.reason == f"no {split} row" and f"split {split}" in doubt.fix


@pytest.mark.parametrize("learned", ["train", "pool"])
@pytest.mark.parametrize(
  "ref, same",
  [("b.wav", "b.wav"), ("b.wav", "./x/../b.wav"), ("s.arrayrecord#3",) * 2],
)
def test_a_clip_of_the_test_that_is_learned_from_is_named(learned, ref, same):
  rows = [row("test", ref), row("test", ref, "c.wav"), row(learned, same)]
  count, fix = told(*rows)["clip of the test is also learned from"]
  # A row of PLAIN asks about b.wav too.
  assert count == 2 + (ref == "b.wav") and fix.startswith(f"{ref!r}: keep")


def test_records_of_a_shard_are_clips_of_their_own():
  rows = [row("test", "s.arrayrecord#3"), row("train", "s.arrayrecord#4")]
  assert not told(*rows)
