"""Round trips through the built-in tokenizer and tokenizer.json files."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgrd_jax.text import tokenizer

TEXTS = ["high pitch, rising contour. so happy", "what do you hear?\nit's"]
TOKENIZER = tokenizer.build(TEXTS)
SPECIAL = tokenizer.SPECIAL + tokenizer.THINK

# Letters that change under lower() are not the built-in tokenizer's.
lower_case = st.text(max_size=40).filter(lambda s: s == s.lower())
pieces = st.lists(
  st.one_of(lower_case, st.sampled_from(SPECIAL)), max_size=6
).map("".join)


@settings(max_examples=150, deadline=None)
@given(lower_case)
def test_lower_case_text_survives_the_round_trip(text):
  assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(pieces)
def test_special_tokens_survive_among_any_text(text):
  assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize("token", SPECIAL)
def test_each_special_token_is_one_id_and_is_kept_by_decode(token):
  ids = TOKENIZER.encode(f"so {token}happy")
  assert ids.count(TOKENIZER.id(token)) == 1
  assert TOKENIZER.decode(ids) == f"so {token}happy"


def test_ids_lie_below_the_vocabulary_size_and_are_distinct():
  ids = {TOKENIZER.id(token) for token in SPECIAL}
  assert len(ids) == len(SPECIAL)
  every = ids | set(TOKENIZER.encode("".join(TEXTS) + "Zürich 09 %\t\x00"))
  assert max(every) < TOKENIZER.vocab_size


def test_a_word_seen_is_one_id_with_its_leading_space():
  for word in (" pitch", " happy", " contour", "\n"):
    assert len(TOKENIZER.encode(word)) == 1, word
  assert len(TOKENIZER.encode(" unheardof")) > 1


def test_digits_are_encoded_one_by_one():
  assert len(TOKENIZER.encode("90210")) == 5


def test_upper_case_is_folded():
  assert TOKENIZER.encode("High PITCH") == TOKENIZER.encode("high pitch")


def test_the_vocabulary_does_not_depend_on_the_order_of_the_texts():
  again = tokenizer.build(reversed(TEXTS))
  text = "rising pitch, so happy"
  assert again.encode(text) == TOKENIZER.encode(text)


def test_a_saved_tokenizer_reads_back_the_same(tmp_path):
  path = tmp_path / "tokenizer.json"
  TOKENIZER.save(path)
  again = tokenizer.load(path)
  text = "<|BOT|>human\n<audio_patch>high pitch?<|EOT|>"
  assert again.vocab_size == TOKENIZER.vocab_size
  assert again.encode(text) == TOKENIZER.encode(text)
  assert again.decode(again.encode(text)) == text


@pytest.mark.parametrize("content", [None, "", "{}", "not json"])
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path, content):
  path = tmp_path / "tokenizer.json"
  if content is not None:
    path.write_text(content)
  with pytest.raises(ValueError, match="tokenizer.json: not a tokenizer"):
    tokenizer.load(path)


def test_an_unknown_token_is_refused_by_name():
  with pytest.raises(ValueError, match="no token '<nothing>'"):
    TOKENIZER.id("<nothing>")
