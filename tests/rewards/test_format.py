"""Think and reply: prefilled or not, closed or not, empty or not."""

import numpy as np
import pytest

from experiments import assembly, responses
from mgrd_jax.rewards import format
from mgrd_jax.rollout import collect
from mgrd_jax.text import chat, tokenizer

PREFILL = chat.OPEN
QUESTION = "how does she feel?"
TOKENIZER = tokenizer.build([f"{QUESTION} slow and low. {chat.LEAD_IN} sad"])


@pytest.mark.parametrize(
  "reasoning, think", [("slow and low.", "\nslow and low.\n"), (None, "\n\n")]
)
def test_a_response_to_the_prefilled_tag_parses_as_the_whole_turn(
  reasoning, think
):
  # Trap 12: the tag stands in the prompt, and what is sampled begins after it.
  row = chat.supervised(TOKENIZER, QUESTION, reasoning=reasoning, answer="sad")
  prompt = chat.prompt(TOKENIZER, QUESTION)
  tokens = row.tokens[len(prompt.tokens) :]
  sample = collect.Sample(tokens, np.zeros(len(tokens), np.float32), True)
  context = assembly.Context(None, None, TOKENIZER, None, [], {}, {}, {}, [])
  full = responses.decoded(context, sample)
  turn = TOKENIZER.decode(row.tokens).rpartition("assistant\n")[2]
  assert full == turn.removesuffix("<|EOT|>")
  parsed = format.parse(full)
  assert parsed.closed and parsed.think == think
  assert parsed.present == (reasoning is not None)
  assert parsed.reply == "\nanswer: sad"
  # Without the tag no block is ever closed, and nothing is right.
  assert not format.parse(TOKENIZER.decode(tokens)).closed


@pytest.mark.parametrize("sampled, think, reply", [
  ("slow and low\n</think>\nsad", "\nslow and low\n", "\nsad"),
  ("x.</think> B", "\nx.", " B"),
  ("\n</think>\nsad", "\n\n", "\nsad"),
  ("</think>", "\n", ""),
])  # fmt: skip
def test_a_block_ends_at_its_tag_whatever_stands_beside_it(
  sampled, think, reply
):
  parsed = format.parse(PREFILL + sampled)
  assert parsed.closed and (parsed.think, parsed.reply) == (think, reply)


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
