"""Think and reply: prefilled or not, closed or not, empty or not."""

import pytest

from mgrd_jax.rewards import format

PREFILL = format.PREFILL


@pytest.mark.parametrize("sampled, think, reply", [
  ("slow and low\n</think>\nsad", "\nslow and low\n", "\nsad"),
  ("x.</think> B", "\nx.", " B"),
  ("\n</think>\nsad", "\n\n", "\nsad"),
  ("</think>", "\n", ""),
])  # fmt: skip
def test_prefilled_and_self_opened_responses_parse_the_same(
  sampled, think, reply
):
  # Trap 12.
  prefilled = format.parse(format.with_prefill(sampled))
  opened = format.parse(format.with_prefill(PREFILL + sampled))
  assert prefilled == opened
  assert (prefilled.think, prefilled.reply) == (think, reply)
  assert prefilled.closed


@pytest.mark.parametrize("full", [
  PREFILL + "never closes",
  PREFILL + "one</think>two</think>sad",
  "the voice is slow</think>sad",
  " <think>leading space</think>sad",
  "</think><think>sad",
  "",
])  # fmt: skip
def test_a_block_that_is_not_opened_and_closed_once_is_not_closed(full):
  parsed = format.parse(full)
  assert not parsed.closed and not parsed.present and parsed.reply == ""


def test_what_was_thought_before_truncation_is_kept():
  parsed = format.parse(PREFILL + "the pitch ri")
  assert parsed.think == "\nthe pitch ri"


@pytest.mark.parametrize("think", [
  "", "\n", "\n\n", " \t\r\n", "\u00a0\u2003\u3000", "\u200b", "\u200d\u2060",
  "\ufeff", "\u00ad", "\u2800", "\u3164", "\ufe0f", "\u0000", "\u034f\n",
  "<think>", "\n<think>\n\u200b",
])  # fmt: skip
def test_an_invisible_think_block_is_absent(think):
  # Traps 12 and 21.
  parsed = format.parse(f"<think>\n{think}\n</think>\nsad")
  assert parsed.closed and not parsed.present


@pytest.mark.parametrize("think", ["a", ".", "\u200b7\u200b", "悲", "é"])
def test_one_visible_character_is_presence(think):
  assert format.parse(f"<think>\n{think}\n</think>\nsad").present


def test_special_tokens_reach_the_reply_verbatim():
  # Trap 15.
  reply = "\n<|BOT|><audio_patch><|THINK_END|><tts_start>sad<|EOT|>  "
  assert format.parse(f"{PREFILL}x</think>{reply}").reply == reply
