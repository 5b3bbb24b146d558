"""Rewards and their parts."""

import functools

import numpy as np
import pytest

from mgrd_jax.rewards import combine

score = functools.partial(
  combine.score_response,
  gold="sad",
  answer_type="choice",
  options=("happy", "sad"),
)
RIGHT = "<think>\nlow and slow\n</think>\nsad"
WRONG = "<think>\nlow and slow\n</think>\nhappy"
RIGHT_EMPTY = "<think>\n\n</think>\nsad"
WRONG_EMPTY = "<think>\n\n</think>\nhappy"


@pytest.mark.parametrize("full, audio, plain", [
  (RIGHT, 1.0, 1.0),
  (RIGHT_EMPTY, 0.8, 1.0),
  (WRONG, 0.2, 0.0),
  (WRONG_EMPTY, 0.0, 0.0),
])  # fmt: skip
def test_the_four_corners_of_the_reward(full, audio, plain):
  got = [score(full, True, has_audio=a)["reward"] for a in (True, False)]
  np.testing.assert_allclose(got, (audio, plain), rtol=1e-6)


def test_accuracy_is_a_part_and_never_read_off_the_reward():
  # Trap 47.
  parts = combine.stack([score(RIGHT_EMPTY, True), score(WRONG, True)])
  np.testing.assert_array_equal(parts["acc"], [1, 0])
  np.testing.assert_array_equal(parts["present"], [0, 1])
  np.testing.assert_allclose(parts["reward"], [0.8, 0.2], rtol=1e-6)


def test_the_answer_counts_in_the_reply_and_not_in_the_chain():
  # Trap 16.
  chain_only = "<think>\nthe answer is sad\n</think>\nhappy"
  reply_only = "<think>\nthe answer is happy\n</think>\nsad"
  assert score(chain_only, True)["acc"] == 0
  assert score(reply_only, True)["acc"] == 1


@pytest.mark.parametrize("full", [RIGHT, WRONG, RIGHT_EMPTY])
@pytest.mark.parametrize("has_audio", [True, False])
def test_a_truncated_response_earns_nothing(full, has_audio):
  # Trap 11: all was written but the end token.
  got = score(full, False, has_audio=has_audio)
  assert (got["reward"], got["stopped"], got["acc"]) == (0, 0, 0)
  assert got["scorable"] == 1


@pytest.mark.parametrize("full", [
  "<think>\nsad", "sad", "<think>\nx</think>\nsad</think>", ""
])  # fmt: skip
def test_a_block_left_open_earns_nothing(full):
  got = score(full, True)
  assert (got["reward"], got["closed"], got["acc"]) == (0, 0, 0)


def test_an_empty_reply_earns_only_its_format():
  for gold in ("sad", "happy"):
    got = score("<think>\nlow\n</think>\n", True, gold=gold)
    assert got["acc"] == 0 and got["reward"] == np.float32(0.2)


def test_an_unscorable_row_is_marked_and_not_called_wrong():
  got = score(RIGHT, True, gold="bored")
  assert (got["scorable"], got["acc"], got["reward"]) == (0, 0, 0)
  assert (got["present"], got["stopped"]) == (1, 1)


def test_weights_are_arguments():
  got = score(RIGHT, True, acc_weight=1.0, format_weight=0.0)
  assert got["reward"] == 1
  assert score(WRONG, True, format_weight=0.0)["reward"] == 0


def test_batched_rewards_match_the_definition():
  acc_B, present_B, stopped_B = np.indices((2, 2, 2)).reshape(3, 8)
  audio_B = combine.audio_reward(acc_B, present_B, stopped_B)
  want = (0.8 * acc_B + 0.2 * present_B) * stopped_B
  np.testing.assert_allclose(audio_B, want, rtol=1e-6)
  text_B = combine.text_reward(acc_B, stopped_B)
  np.testing.assert_array_equal(text_B, acc_B * stopped_B)
  assert audio_B.dtype == text_B.dtype == np.float32


def test_every_part_is_a_float_under_its_name():
  got = score(RIGHT, True)
  assert tuple(got) == combine.PARTS
  assert all(type(value) is float for value in got.values())
