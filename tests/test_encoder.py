"""What a clip teaches the encoder: all of its words, or none of them."""

import dataclasses

import numpy as np
import pytest

from experiments import encoder
from mgrd_jax.audio import features
from mgrd_jax.data import clips as clips_lib
from tests import world

SAID = " ".join("abcdefghijklmnopqrst")  # twenty words


def said(**transcripts):
  """A world where only these clips of the user's are learned from."""
  context = world.context()
  (own,) = [e for e in context.examples if e.id == "train-own"]
  context.examples = [
    dataclasses.replace(own, id=ref, audio=(f"1:{ref}.wav",), transcript=text)
    for ref, text in transcripts.items()
  ]
  return context


def lasting(context, seconds):
  """All clips of a context, that long."""
  samples = round(seconds * features.RATE)
  mel_RM = np.zeros((features.mel_frames(samples), 128), np.float16)
  clip = clips_lib.Clip(mel_RM, samples)
  refs = (e.audio[0] for e in context.examples)
  return dataclasses.replace(context, clips=dict.fromkeys(refs, clip))


def taught(context):
  """(words of each row of the first batch, columns)."""
  data, word_ids, _ = encoder.batches(context, world.stage("encoder"))
  names = {i: w for w, i in word_ids.items()}
  words_BT = data(0)["words_BT"]
  rows = [" ".join(names[i] for i in row if i) for row in words_BT.tolist()]
  return set(rows), words_BT.shape[1]


def test_a_long_transcript_is_taught_to_its_last_word(capsys):
  context = lasting(said(long=SAID, short="so it goes"), 4)
  assert taught(context) == ({SAID, "so it goes"}, 20)
  assert capsys.readouterr().out == ""


def test_short_transcripts_leave_the_shape_of_a_batch_as_it_is():
  context = lasting(said(one="so it goes", other=""), 4)
  assert taught(context) == ({"so it goes", ""}, encoder.WORDS)


# A quarter of a second is six frames at 25 Hz.
@pytest.mark.parametrize(
  "text, fits",
  [
    ("a b c d e f", True),
    ("a b c d e f g", False),
    ("a a a a", False),  # three blanks part the four
    ("a a a", True),
  ],
)
def test_a_transcript_that_its_frames_cannot_carry_is_not_taught(
  text, fits, capsys
):
  context = lasting(said(cut=text), 0.25)
  rows, _ = taught(context)
  assert rows == {text if fits else ""}
  line = (
    "transcripts too long for their clips, so not learned: 1; the first: "
    f"cut.wav ({len(text.split())} words in 6 frames)\n"
  )
  assert capsys.readouterr().out == ("" if fits else line)


def test_a_clip_whose_transcript_is_dropped_still_teaches_its_attributes():
  context = lasting(said(cut=SAID), 0.25)
  data, words, classes = encoder.batches(context, world.stage("encoder"))
  assert not words and list(classes) == ["own.what is my train?"]
  np.testing.assert_array_equal(data(0)["label_BN"], 0)


def test_a_clip_with_a_transcript_is_not_shifted():
  mel_RM = np.arange(200, dtype=np.float16)[:, None].repeat(128, 1) / 100
  element = {"own": True, "mel_RM": mel_RM, "words_T": np.array([1, 2, 0])}

  def top_is_last(element, seed):
    out = encoder.jitter(element, np.random.default_rng(seed))["mel_RM"]
    # The loudest frame: masks hide some columns of each.
    return out.max(1)[-60:].max() == out.max()

  assert all(top_is_last(element, seed) for seed in range(20))
  element["words_T"] = np.zeros(3, np.int32)
  assert not all(top_is_last(element, seed) for seed in range(20))
