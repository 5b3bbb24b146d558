"""The silent control is digital silence as long as its clip (trap 43)."""

import jax
import numpy as np
import pytest

from experiments import assembly
from mgrd_jax.audio import features
from mgrd_jax.data import clips as clips_lib
from mgrd_jax.data import schema
from tests import toys
from tests.test_ask import QUESTION, tokenizer

# Frames: 100, 101 (one begun), 150 (one not full), and 251.
SAMPLES = (16_000, 16_001, 23_999, 40_160)


class Waves:
  """Noise of an index's length; "zero/i" is as long and holds nothing."""

  def wave(self, ref):
    size = SAMPLES[int(ref.removeprefix("zero/"))]
    if ref.startswith("zero/"):
      return np.zeros(size, np.float32)
    # Loud beside faint: the control must not depend on the clip's level.
    rng = np.random.default_rng(int(ref))
    return (0.1 ** int(ref) * rng.normal(size=size)).astype(np.float32)


REFS = [str(i) for i in range(len(SAMPLES))]
ZEROS = [f"zero/{r}" for r in REFS]


@pytest.fixture(scope="module")
def loaded():
  """Clips and true zeros, through the log-mel of production."""
  log_mel = jax.jit(features.log_mel)
  return clips_lib.load(Waves(), [*REFS, *ZEROS], log_mel, batch=4)


@pytest.fixture(scope="module")
def context(loaded):
  """One example a clip; the last is not of the test."""
  examples = [
    schema.Example(
      id=ref,
      question=QUESTION,
      answer="high",
      answer_type="text",
      audio=(ref,),
      split="train" if ref == REFS[-1] else "test",
    )
    for ref in REFS
  ]
  clips = {ref: loaded[ref] for ref in REFS}
  return assembly.Context(
    None, None, tokenizer(), toys.CONFIG, examples, clips, {}, {}, []
  )


@pytest.fixture(scope="module")
def encoded(context):
  """The clips that `encode_clips` hands to the encoder."""
  seen = {}

  def encode(clips, encode_fn, **_):
    seen.update(clips)
    return {
      ref: toys.clip(0, features.pooled_frames(len(clip.mel_RM)))
      for ref, clip in clips.items()
    }

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(clips_lib, "encode", encode)
    assembly.encode_clips(context, {})
  return seen


def test_every_clip_of_the_test_has_a_silent_twin(encoded, context):
  twins = {f"silent/{ref}" for ref in REFS[:-1]}
  assert set(encoded) == {*REFS, *twins}
  assert set(context.enc) == set(encoded)


@pytest.mark.parametrize("ref", REFS[:-1])
def test_the_twin_is_the_log_mel_of_zeros(encoded, loaded, ref):
  silent, zero = encoded[f"silent/{ref}"], loaded[f"zero/{ref}"]
  assert silent.mel_RM.dtype == zero.mel_RM.dtype
  np.testing.assert_array_equal(silent.mel_RM, zero.mel_RM)
  assert not np.array_equal(encoded[ref].mel_RM, zero.mel_RM)


@pytest.mark.parametrize("ref", REFS[:-1])
def test_clip_and_twin_have_the_same_tokens(encoded, context, ref):
  clip, silent = encoded[ref], encoded[f"silent/{ref}"]
  assert silent.samples == clip.samples
  assert silent.input_len == clip.input_len
  assert silent.tokens == clip.tokens == features.token_count(clip.samples)
  example = next(e for e in context.examples if e.audio == (ref,))
  own = assembly.prompt_item(context, example)
  null = assembly.prompt_item(context, example, refs=[f"silent/{ref}"])
  np.testing.assert_array_equal(null.row.tokens, own.row.tokens)
  assert null.row.spans == own.row.spans
  assert [len(e) for e in null.enc] == [len(e) for e in own.enc]
