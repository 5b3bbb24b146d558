"""Round trips through the built-in tokenizer and released files."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgrd_jax.text import tokenizer
from tests.text import byte_pairs

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


def test_a_tokenizer_is_replaced_whole_under_whoever_reads_it(tmp_path):
  path = tmp_path / "tokenizer.json"
  TOKENIZER.save(path)
  before = path.read_bytes()
  with path.open("rb") as reader:
    tokenizer.build(["naïve, другой"]).save(path)
    assert reader.read() == before
  assert path.read_bytes() != before
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


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


ANY = "Ça va? 漢字 e\u0301 don't 90 210\t\r\n\n  </think>\n\n\x00 <|EO T|>"
BESIDE = ("added_tokens.json", "tokenizer_config.json")
released_text = st.lists(
  st.one_of(st.text(max_size=20), st.sampled_from([*byte_pairs.STEP_AUDIO])),
  max_size=4,
).map("".join)


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
  """The same tokenizer out of each form of a released folder."""
  root = tmp_path_factory.mktemp("forms")
  return {
    form: tokenizer.load_folder(byte_pairs.write(root / form, form=form))
    for form in ("tokenizer.json", *BESIDE)
  }


@settings(max_examples=60, deadline=None)
@given(released_text)
def test_every_form_of_a_released_folder_reads_the_same(forms, text):
  expected = forms["tokenizer.json"].encode(text)
  for form in BESIDE:
    assert forms[form].encode(text) == expected
    assert forms[form].decode(expected) == forms["tokenizer.json"].decode(
      expected
    )


CUT = {
  "IT'SO don't": ["IT", "'S", "O", "Ġdon", "'t"],
  " high-pitched": ["Ġhigh", "-pitched"],
  "90 21": ["9", "0", "Ġ", "2", "1"],
  "a  b \n\n c": ["a", "Ġ", "Ġb", "ĠĊĊ", "Ġc"],
  "a?!\n\nb ": ["a", "?!ĊĊ", "b", "Ġ"],
  "</think>\n": ["</", "think", ">Ċ"],
}


@pytest.mark.parametrize("text", CUT)
def test_text_is_cut_as_qwen2_cuts_it_before_it_is_merged(forms, text):
  for found in forms.values():
    pieces = found.raw.pre_tokenizer.pre_tokenize_str(text)
    assert [piece for piece, _ in pieces] == CUT[text]


def test_byte_pairs_read_any_text_composed(forms):
  for found in forms.values():
    assert found.decode(found.encode(ANY)) == ANY.replace("e\u0301", "é")
    assert found.encode("9021") == [24, 15, 17, 16]
    assert found.encode("a<|EOT|> b") == [64, 151665, 220, 65]


def test_special_flags_come_from_the_file_that_has_them(forms):
  added = forms["tokenizer_config.json"].raw.get_added_tokens_decoder()
  assert added[151665].special and not added[151657].special
  assert forms["tokenizer.json"].added() == {
    i: name for name, i in byte_pairs.STEP_AUDIO.items()
  }


def test_tokens_that_tokenizer_json_lacks_are_added_under_their_ids(tmp_path):
  some = {"<|endoftext|>": 151643, "<|im_start|>": 151644}
  folder = byte_pairs.write(tmp_path / "model", some)
  more = some | {"<|im_end|>": 151645, "<tool_call>": 151646}
  (folder / "added_tokens.json").write_text(json.dumps(more))
  found = tokenizer.load_folder(folder)
  assert {name: found.id(name) for name in more} == more
  assert found.encode("<|im_end|>") == [151645]


def test_files_that_disagree_about_an_id_are_refused(tmp_path):
  folder = byte_pairs.write(tmp_path / "model")
  path = folder / "added_tokens.json"
  path.write_text(json.dumps({"<|EOT|>": 151664}))
  with pytest.raises(ValueError) as refused:
    tokenizer.load_folder(folder)
  assert str(refused.value).startswith(
    f"{folder}/tokenizer.json: '<|EOT|>' has id 151665, where the added tokens "
    "beside it say 151664"
  )
  byte_pairs.write(folder, form="tokenizer_config.json")
  path.write_text(json.dumps({"<|EOT|>": 151664}))
  with pytest.raises(ValueError, match="added_tokens.json: '<|EOT|>' has id"):
    tokenizer.load_folder(folder)


@pytest.mark.parametrize(
  "name, content, wrong",
  [
    ("vocab.json", "{", "not JSON"),
    ("vocab.json", "[]", "not a JSON object"),
    ("vocab.json", '{"a": "b"}', "not a vocabulary"),
    ("merges.txt", "#version: 0.2\nt h\nthink\n", "line 3: a merge is two"),
    ("merges.txt", "t h e\n", "line 1: a merge is two pieces, not 't h e'"),
    ("merges.txt", "t zz\n", "does not fit vocab.json"),
    ("added_tokens.json", '{"<|EOT|>": "x"}', "'<|EOT|>' has id 'x'"),
    ("tokenizer_config.json", "truncat", "not JSON"),
    (
      "tokenizer_config.json",
      '{"added_tokens_decoder": {"7": {}}}',
      "added_tokens_decoder: not id: token",
    ),
  ],
)
def test_a_broken_file_of_a_folder_is_named(tmp_path, name, content, wrong):
  folder = byte_pairs.write(tmp_path / "model", form="added_tokens.json")
  (folder / name).write_text(content)
  with pytest.raises(ValueError) as refused:
    tokenizer.load_folder(folder)
  line = str(refused.value)
  assert line.startswith(f"{folder / name}: {wrong}") and "\n" not in line


def test_a_folder_without_a_tokenizer_says_what_it_lacks(tmp_path):
  with pytest.raises(ValueError, match="no tokenizer.json, nor vocab.json"):
    tokenizer.load_folder(tmp_path)
  (tmp_path / "vocab.json").write_text("{}")
  with pytest.raises(ValueError, match="with merges.txt"):
    tokenizer.load_folder(tmp_path)


@settings(max_examples=60, deadline=None)
@given(released_text)
def test_a_stream_is_its_text_and_cuts_no_character(forms, text):
  found = forms["tokenizer.json"]
  ids = found.encode(text)
  pieces = list(tokenizer.stream(found, iter(ids)))
  assert "".join(pieces) == found.decode(ids)
  assert all(pieces)
  if "\ufffd" not in text:
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_stream_shows_a_character_as_soon_as_it_is_whole(forms):
  found = forms["tokenizer.json"]
  # The space comes with the first byte of what follows it.
  assert len(found.encode(" 漢")) == len(found.encode("漢")) == 3
  ids = iter(found.encode("a 漢b"))
  pieces = tokenizer.stream(found, ids)
  assert [next(pieces) for _ in range(3)] == ["a", " ", "漢"]
  assert list(ids) == found.encode("b")


def test_a_stream_that_ends_inside_a_character_says_so(forms):
  found = forms["tokenizer.json"]
  ids = found.encode("漢")[:2]
  assert "".join(tokenizer.stream(found, ids)) == found.decode(ids)


def test_a_small_tokenizer_streams_too():
  text = "high pitch, zürich"
  ids = TOKENIZER.encode(text)
  assert "".join(tokenizer.stream(TOKENIZER, ids)) == text
