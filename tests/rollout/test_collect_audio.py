"""Sampler and trainer hear the same clip, at lengths around a chunk (trap 28).

A question of text alone is in the batch too.

    waves -> log-mel -> states -> rlvr.Sampler -> batch of generate, Rollout
"""

import hashlib

import jax
import numpy as np
import pytest

from configs import rlvr as rlvr_config
from experiments import assembly, responses, rlvr
from mgrd_jax.audio import features
from mgrd_jax.data import clips as clips_lib
from mgrd_jax.data import schema
from tests import toys
from tests.test_ask import QUESTION, tokenizer

# The limit of a clip is 29.98 s; 25 s is where long audio is cut.
SECONDS = (24.9, 25.0, 25.1, 29.98)
SAMPLES = 2


class Noise:
  """A clip of noise as long as its ref says."""

  def wave(self, ref):
    seconds = float(ref)
    rng = np.random.default_rng(round(100 * seconds))
    wave_W = rng.normal(size=round(seconds * features.RATE))
    return wave_W.astype(np.float32)


def states(mel_BRM, len_B):
  """25 Hz states without an encoder: the mean of four mel frames."""
  pooled = features.pooled_frames(mel_BRM.shape[1])
  part = mel_BRM[:, : 4 * pooled, : toys.WIDTH]
  shape = (len(part), pooled, 4, toys.WIDTH)
  return part.reshape(shape).mean(2), features.encoder_frames(len_B)


@pytest.fixture(scope="module")
def context():
  refs = [str(s) for s in SECONDS]
  clips_of = {ref: (ref,) for ref in refs} | {"text": ()}
  clips = clips_lib.load(Noise(), refs, jax.jit(features.log_mel), batch=1)
  examples = [
    schema.Example(
      id=name,
      question=QUESTION,
      answer="high",
      answer_type="choice",
      options=("high", "low"),
      audio=heard,
    )
    for name, heard in clips_of.items()
  ]
  enc = clips_lib.encode(clips, states, batch=1)
  config = rlvr_config.get_config("smoke")
  config.samples, config.min_selected = SAMPLES, 1
  config.prompts = {"audio": len(refs), "text": 1}
  return assembly.Context(
    config, None, tokenizer(), toys.CONFIG, examples, clips, enc, {}, []
  )


@pytest.fixture(scope="module")
def heard(context):
  """(the batch that was sampled from, the Rollout that is trained on)."""
  seen = []

  def generator(*_, samples, max_new, **__):
    def generate(batch, request_B):
      seen.append(batch)
      rows = len(request_B) * samples
      token_BT = np.full((rows, max_new), tokenizer().id("<|EOT|>"))
      ones_B = np.ones(rows, np.int32)
      return token_BT, np.zeros((rows, max_new)), ones_B, ones_B > 0

    return generate

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(responses, "generator", generator)
    examples = context.examples
    sampler = rlvr.Sampler(context, examples, examples, context.config)
    scored, *_ = sampler.rollout({}, 0, jax.random.key(0))
  (batch,) = seen
  return batch, scored.rollout


def digest(array):
  return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def test_the_trainer_reads_the_very_features_that_were_sampled_from(
  context, heard
):
  prompts, rollout = heard
  # At most one clip a row: slot b is row b's.
  sampled = [digest(enc_AE) for enc_AE in prompts.enc_BAE]
  trained = [digest(enc_AE) for enc_AE in rollout.prompts.enc_BAE]
  assert trained == sampled
  assert len(set(sampled)) == len(SECONDS) + 1
  prompt_of = rollout.example_B[::SAMPLES]
  assert rollout.example_B.tolist() == prompt_of.repeat(SAMPLES).tolist()
  for row, enc_AE in zip(prompt_of, rollout.prompts.enc_BAE, strict=True):
    refs = context.examples[row].audio
    own_AE = context.enc[refs[0]] if refs else enc_AE[:0]
    np.testing.assert_array_equal(enc_AE[: len(own_AE)], own_AE)
    assert not enc_AE[len(own_AE) :].any()


def test_both_count_the_tokens_of_the_table(context, heard):
  prompts, rollout = heard
  patch = tokenizer().id("<audio_patch>")
  for b, at in enumerate(rollout.example_B[::SAMPLES]):
    refs = context.examples[at].audio
    count = sum(features.token_count(context.clips[r].samples) for r in refs)
    for read in (prompts, rollout.prompts):
      tokens_T, index_T = read.tokens_BT[b], read.audio_index_BT[b]
      assert (tokens_T == patch).sum() == count
      np.testing.assert_array_equal(tokens_T == patch, index_T >= 0)
      np.testing.assert_array_equal(index_T[index_T >= 0], np.arange(count))
  np.testing.assert_array_equal(rollout.prompts.tokens_BT, prompts.tokens_BT)
  np.testing.assert_array_equal(rollout.prompts.valid_BT, prompts.valid_BT)


def test_a_row_of_text_hears_no_clip(context, heard):
  prompts, rollout = heard
  is_text = [not context.examples[at].audio for at in rollout.example_B]
  assert is_text == [False] * len(SECONDS) * SAMPLES + [True] * SAMPLES
  is_text_B = np.array(is_text[::SAMPLES])
  for read in (prompts, rollout.prompts):
    assert (read.audio_index_BT[is_text_B] == -1).all()
    # Nothing where its clip would be, in either batch.
    assert not read.enc_BAE[is_text_B].any()
    assert (read.audio_index_BT[~is_text_B] >= 0).any(1).all()
