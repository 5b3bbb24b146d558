"""Prompts, placeholders, the boundary at the think block, loss masks."""

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from mgrd_jax.text import chat, tokenizer

QUESTION = "how does the speaker feel?"
OPTIONS = ("happy", "sad")
CHAIN = "high pitch, rising contour. so happy"
BUILT_IN = tokenizer.build([
  QUESTION, CHAIN, "options: happy | sad", "human\nassistant\nanswer:",
  chat.HINT,
])  # fmt: skip


def byte_pairs():
  """A byte-level BPE in which newlines merge with their neighbours.

  As the released tokenizer does: "\\n\\n" is one id, "<think>" is not.
  """
  raw = tokenizers.Tokenizer(tokenizers.models.BPE())
  raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  raw.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=330,
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  raw.train_from_iterator(["<think>\n\n</think>\n"] * 9 + [CHAIN], trainer)
  raw.add_special_tokens(
    [tokenizers.AddedToken(t, normalized=False) for t in tokenizer.SPECIAL]
  )
  return tokenizer.HFTokenizer(raw)


TOKENIZERS = {"built-in": BUILT_IN, "byte pairs": byte_pairs()}
each_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


def supervised(tok, **kwargs):
  return chat.supervised(
    tok, QUESTION, OPTIONS, **{"answer": "happy", "reasoning": CHAIN} | kwargs
  )


def lossy_text(tok, row):
  """What the loss covers, decoded."""
  return tok.decode(row.tokens[row.loss])


def test_the_prompt_is_the_published_turn_syntax():
  assert chat.prompt_text(QUESTION, OPTIONS, clips=2) == (
    "<|BOT|>human\n"
    "<audio_start><audio_patch><audio_end>"
    "<audio_start><audio_patch><audio_end>"
    "how does the speaker feel?\noptions: happy | sad<|EOT|>"
    "<|BOT|>assistant\n<think>\n"
  )
  assert chat.prompt_text(QUESTION, hint="listen.", direct=True) == (
    "<|BOT|>human\nhow does the speaker feel? listen.<|EOT|>"
    "<|BOT|>assistant\n<think>\n\n</think>\n"
  )


@each_tokenizer
@pytest.mark.parametrize("direct", [False, True])
def test_a_prompt_decodes_to_its_text(name, direct):
  tok = TOKENIZERS[name]
  row = chat.prompt(tok, QUESTION, OPTIONS, direct=direct)
  text = chat.prompt_text(QUESTION, OPTIONS, direct=direct)
  assert tok.decode(row.tokens) == text
  assert row.prompt_len == len(row.tokens) and not row.loss.any()


@each_tokenizer
def test_training_ids_are_prompt_ids_and_the_rest_on_its_own(name):
  tok = TOKENIZERS[name]
  head = chat.prompt(tok, QUESTION, OPTIONS).tokens.tolist()
  rest = tok.encode(f"{CHAIN}\n</think>\nanswer: happy<|EOT|>")
  assert supervised(tok).tokens.tolist() == head + rest


@each_tokenizer
def test_the_empty_block_is_tokenised_as_a_policy_would_write_it(name):
  tok = TOKENIZERS[name]
  # The opening tag is prefilled; what closes it is the policy's own.
  head = chat.prompt(tok, QUESTION, OPTIONS).tokens.tolist()
  rest = tok.encode("\n</think>\n") + tok.encode("answer: happy<|EOT|>")
  assert supervised(tok, reasoning=None).tokens.tolist() == head + rest
  direct = chat.prompt(tok, QUESTION, OPTIONS, direct=True).tokens.tolist()
  assert direct == head + tok.encode("\n</think>\n")


@each_tokenizer
def test_the_loss_covers_chain_reply_and_end_of_turn(name):
  tok = TOKENIZERS[name]
  row = supervised(tok, counts=(3,))
  assert lossy_text(tok, row) == f"{CHAIN}\n</think>\nanswer: happy<|EOT|>"
  assert row.loss[row.prompt_len :].all()
  assert not row.loss[: row.prompt_len].any()


@each_tokenizer
def test_an_empty_block_is_not_scored_and_the_reply_is(name):
  tok = TOKENIZERS[name]
  for reasoning in (None, ""):
    row = supervised(tok, counts=(3,), reasoning=reasoning)
    assert lossy_text(tok, row) == "answer: happy<|EOT|>"


@each_tokenizer
def test_the_given_beginning_is_context_and_not_target(name):
  tok = TOKENIZERS[name]
  start, rest = "high pitch, rising contour.", " so happy"
  row = supervised(tok, given=start, reasoning=rest)
  assert lossy_text(tok, row) == " so happy\n</think>\nanswer: happy<|EOT|>"
  whole = tok.decode(row.tokens[row.prompt_len :])
  assert whole == f"{CHAIN}\n</think>\nanswer: happy<|EOT|>"


@pytest.mark.parametrize("counts", [(), (1,), (5,), (4, 2)])
def test_each_clip_has_as_many_placeholders_as_audio_tokens(counts):
  row = supervised(BUILT_IN, counts=counts)
  patch = BUILT_IN.id("<audio_patch>")
  assert (row.tokens == patch).sum() == sum(counts)
  assert [count for _, count in row.spans] == list(counts)
  before, after = BUILT_IN.id("<audio_start>"), BUILT_IN.id("<audio_end>")
  for start, count in row.spans:
    assert (row.tokens[start : start + count] == patch).all()
    assert row.tokens[start - 1] == before
    assert row.tokens[start + count] == after
  assert not row.loss[row.tokens == patch].any()


def test_a_clip_without_an_audio_token_is_refused():
  with pytest.raises(ValueError, match="clip 1 is too short"):
    chat.prompt(BUILT_IN, QUESTION, counts=(2, 0))


def test_placeholders_and_clips_must_agree_in_number():
  patch = BUILT_IN.id("<audio_patch>")
  with pytest.raises(ValueError, match="2 audio placeholders for 1 clips"):
    chat.expand([5, patch, patch], [3], patch)


@pytest.mark.parametrize("token", tokenizer.SPECIAL + tokenizer.THINK)
def test_a_special_token_in_what_the_user_wrote_is_refused(token):
  with pytest.raises(ValueError, match="special token"):
    chat.prompt(BUILT_IN, f"what is {token}?", counts=(2,))
  with pytest.raises(ValueError, match="special token"):
    chat.prompt(BUILT_IN, QUESTION, ("happy", f"sad{token}"))


@settings(max_examples=50, deadline=None)
@given(st.text("abc <>|\n/?", max_size=30))
def test_any_question_leaves_the_prompt_whole(question):
  row = chat.prompt(BUILT_IN, question, OPTIONS, counts=(2,))
  for token, count in {"<|BOT|>": 2, "<|EOT|>": 1, "<audio_patch>": 2}.items():
    assert (row.tokens == BUILT_IN.id(token)).sum() == count
  assert BUILT_IN.decode(row.tokens).endswith("assistant\n<think>\n")
