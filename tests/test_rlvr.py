"""What reinforcement learning counts, it counts by example."""

import numpy as np
import pytest

from experiments import assembly, files, rlvr
from mgrd_jax.types import Batch, Rollout, Scored
from tests import world

TANGO = f"{world.CHAIN}\n</think>\nanswer: tango<|EOT|>"


def scored(acc_B, example_B, reward_B=None, keep_B=None):
  acc_B = np.array(acc_B, np.float32)
  keep_B = np.ones(len(acc_B), bool) if keep_B is None else np.array(keep_B)
  reward_B = acc_B if reward_B is None else np.array(reward_B, np.float32)
  prompts = Batch(*[None] * 5)
  rollout = Rollout(prompts, *[None] * 4, np.array(example_B))
  return Scored(rollout, acc_B, None, keep_B, None, reward_B)


def test_one_question_about_two_clips_is_two_groups():
  # Traps 36, 46 and 48: rows of both clips in turn, one of them always right.
  found = rlvr._group_metrics(scored([1, 0] * 4, [5, 9] * 4))
  assert found == {
    "rollout/groups/all_correct": 0.5,
    "rollout/groups/all_wrong": 0.5,
    "rollout/groups/mixed": 0.0,
    # What its others earned is all that a row earns.
    "rollout/groups/ev_loo": 1.0,
    **{f"rollout/pass_at_{k}": 0.5 for k in (1, 2, 4)},
  }


def test_pass_at_k_and_the_baseline_of_a_mixed_group():
  # One of eight, and two of eight.
  acc_B = [1, 0, 0, 0, 0, 0, 0, 0] + [1, 1, 0, 0, 0, 0, 0, 0]
  found = rlvr._group_metrics(scored(acc_B, [0] * 8 + [1] * 8))
  assert found["rollout/groups/mixed"] == 1
  assert found["rollout/pass_at_1"] == pytest.approx((1 / 8 + 2 / 8) / 2)
  assert found["rollout/pass_at_2"] == pytest.approx((2 / 8 + 13 / 28) / 2)
  assert found["rollout/pass_at_8"] == 1
  assert "rollout/pass_at_16" not in found
  # A row against the mean of its others: worse than the mean of all.
  others = [(sum(g) - r) / 7 for g in (acc_B[:8], acc_B[8:]) for r in g]
  rest_B = np.array(acc_B) - others
  want = 1 - rest_B.var() / np.var(acc_B)
  assert found["rollout/groups/ev_loo"] == pytest.approx(want) and want < 0


def test_accuracy_is_counted_and_not_the_reward_nor_what_cannot_be_scored():
  # Wrong with a thought earns 0.2; the last row is unscorable.
  found = rlvr._group_metrics(
    scored([1, 0, 0, 1], [3] * 4, [1, 0.2, 0.2, 9], [True] * 3 + [False])
  )
  assert found["rollout/pass_at_1"] == pytest.approx(1 / 3)
  assert found["rollout/groups/mixed"] == 1
  nothing = scored([1, 1], [0, 0], keep_B=[False, False])
  assert rlvr._group_metrics(nothing) == {}
  equal = rlvr._group_metrics(scored([1, 1], [0, 0]))
  assert equal["rollout/groups/ev_loo"] == 0


def test_selection_counts_the_hits_of_each_clip(tmp_path, monkeypatch):
  """Dances are asked alike; whoever says "tango" is right about one of them."""
  context = world.context()
  config = world.stage("audio_rlvr", band=(3, 6), select_samples=4)
  token_T = np.array(context.tokenizer.encode(TANGO), np.int32)

  def generator(*_, samples, **__):
    def generate(batch, request_B):
      rows = len(request_B) * samples
      stopped_B = np.arange(rows) % samples > 0  # three of four
      length_B = np.full(rows, len(token_T))
      token_BT = np.tile(token_T, (rows, 1))
      return token_BT, np.zeros(token_BT.shape), length_B, stopped_B

    return generate

  monkeypatch.setattr(assembly, "generator", generator)
  asked = rlvr.questions(context, config)
  chosen = rlvr.selected(
    context, {}, asked, config=config, workdir=tmp_path
  )
  hits = files.read_json(tmp_path / "hits.json")
  assert hits == {e.id: 3 * (e.answer == "tango") for e in asked}
  assert chosen == [e for e in asked if e.answer == "tango"]
  dances = [e for e in asked if e.question == "which dance is this?"]
  assert sorted(hits[e.id] for e in dances) == [0, 0, 0, 3]
