"""Special tokens of released folders, checked; stops, bans, sampling."""

import json

import pytest

from mgrd_jax.text import families, tokenizer
from tests.text import byte_pairs

FAMILIES = ("step-audio", "qwen2-audio")
each_family = pytest.mark.parametrize("family", FAMILIES)


def folder_of(tmp_path, family, **changed):
  """A folder with some tokens under other ids, or (None) without them."""
  special = byte_pairs.SPECIAL[family] | changed
  kept = {name: i for name, i in special.items() if i is not None}
  return byte_pairs.write(tmp_path / "model", kept)


@each_family
def test_a_released_folder_loads_with_its_published_ids(tmp_path, family):
  found = families.load(folder_of(tmp_path, family), family)
  for name, i in families.FAMILIES[family].ids.items():
    assert found.id(name) == i
    assert found.encode(f"so {name}sad").count(i) == 1


@each_family
def test_each_token_that_the_template_writes_is_required(tmp_path, family):
  for name in families.FAMILIES[family].required:
    folder = folder_of(tmp_path, family, **{name: None})
    with pytest.raises(ValueError) as refused:
      families.load(folder, family)
    line = str(refused.value)
    assert line.startswith(f"{folder}/tokenizer.json: no token {name!r}")
    assert family in line and "\n" not in line


@each_family
def test_another_id_than_the_published_one_is_refused(tmp_path, family):
  for name, i in families.FAMILIES[family].ids.items():
    folder = folder_of(tmp_path, family, **{name: 120_000})
    with pytest.raises(ValueError) as refused:
      families.load(folder, family)
    line = str(refused.value)
    assert f"{folder}/tokenizer.json: {name!r} has id 120000" in line
    assert f"expected {i}" in line and "\n" not in line


def test_ids_that_are_only_inferred_may_be_others(tmp_path):
  moved = {"<|BOT|>": 120_001, "<audio_end>": 120_002}
  found = families.load(
    folder_of(tmp_path, "step-audio", **moved), "step-audio"
  )
  assert found.id("<|BOT|>") == 120_001


def test_speech_tokens_may_be_missing_but_not_moved(tmp_path):
  gone = {"<tts_start>": None, "<audio_0>": None}
  folder = folder_of(tmp_path, "step-audio", **gone)
  found = families.load(folder, "step-audio")
  assert found.raw.token_to_id("<tts_start>") is None
  assert found.id("<audio_patch>") == 151690
  moved = {"<tts_start>": 120_003}
  with pytest.raises(ValueError, match="'<tts_start>' has id 120003"):
    families.load(folder_of(tmp_path, "step-audio", **moved), "step-audio")


def test_a_tokenizer_without_special_tokens_is_one_line(tmp_path):
  folder = byte_pairs.write(tmp_path / "model", {})
  for family, first in zip(FAMILIES, ("<|BOT|>", "<|im_start|>"), strict=True):
    with pytest.raises(ValueError) as refused:
      families.load(folder, family)
    line = str(refused.value)
    assert line.startswith(f"{folder}/tokenizer.json: no token {first!r}")
    assert " and 5 more; " in line and "\n" not in line


def test_the_tokenizer_of_another_family_is_refused(tmp_path):
  folder = folder_of(tmp_path, "qwen2-audio")
  with pytest.raises(ValueError, match="no tokenizer of a released step-audio"):
    families.load(folder, "step-audio")


def test_a_token_in_the_vocabulary_that_is_not_special_is_refused(tmp_path):
  folder = folder_of(tmp_path, "step-audio")
  path = folder / "tokenizer.json"
  found = json.loads(path.read_text())
  keep = [t for t in found["added_tokens"] if t["content"] != "<audio_patch>"]
  path.write_text(json.dumps(found | {"added_tokens": keep}))
  with pytest.raises(ValueError, match="'<audio_patch>'.* is no special token"):
    families.load(folder, "step-audio")


def test_ids_past_the_embedding_are_refused(tmp_path):
  folder = folder_of(tmp_path, "step-audio")
  families.load(folder, "step-audio", vocab=158_258)
  wrong = "'<audio_6561>' has id 158257, where the model has 158257 ids"
  with pytest.raises(ValueError, match=wrong):
    families.load(folder, "step-audio", vocab=158_257)


def test_an_unknown_family_is_refused_with_the_known_ones():
  with pytest.raises(ValueError, match="'whisper' is none of step-audio, qwen"):
    families.of("whisper")


def test_a_response_stops_at_its_turn_s_end_first(tmp_path):
  step = families.load(folder_of(tmp_path, "step-audio"), "step-audio")
  assert families.stop_ids(step, "step-audio") == (151665, 151643, 151645)
  qwen = families.load(folder_of(tmp_path, "qwen2-audio"), "qwen2-audio")
  assert families.stop_ids(qwen, "qwen2-audio") == (151645, 151643)


def test_a_tokenizer_of_our_own_stops_at_what_it_has():
  own = tokenizer.build(["so happy"])
  expected = own.id("<|EOT|>"), own.id("<|endoftext|>")
  assert families.stop_ids(own, "step-audio") == expected


@pytest.mark.parametrize(
  "listed, more", [([151643, 151665], ()), (7, (7,)), ([8, 7, 151665], (8, 7))]
)
def test_the_generation_config_adds_stops(tmp_path, listed, more):
  folder = folder_of(tmp_path, "step-audio")
  found = families.load(folder, "step-audio")
  config = {"eos_token_id": listed, "_from_model_config": True}
  (folder / "generation_config.json").write_text(json.dumps(config))
  expected = (151665, 151643, 151645, *more)
  assert families.stop_ids(found, "step-audio", folder) == expected


def test_what_stands_for_sound_is_never_generated(tmp_path):
  found = families.load(folder_of(tmp_path, "step-audio"), "step-audio")
  ids = families.never_generated(found, "step-audio")
  special = byte_pairs.STEP_AUDIO
  sound = {i for i in special.values() if i >= special["<audio_start>"]}
  assert set(ids) == sound | {special["<|BOT|>"]}
  assert not set(ids) & set(families.stop_ids(found, "step-audio"))
  qwen = families.load(folder_of(tmp_path, "qwen2-audio"), "qwen2-audio")
  banned = families.never_generated(qwen, "qwen2-audio")
  assert banned == (151644, 151646, 151647, 151648)


def test_rows_that_are_nobody_s_id_are_never_generated(tmp_path):
  found = families.load(folder_of(tmp_path, "step-audio"), "step-audio")
  ids = set(families.never_generated(found, "step-audio", 158_720))
  assert set(range(158_258, 158_720)) <= ids
  for text in ("<think>\n", "high pitch?", "<|EOT|>"):
    assert not ids & set(found.encode(text))
  assert all(found.decode([i]) == "" for i in sorted(ids)[:50])


def test_the_published_sampling_settings():
  found = {name: r.sampling for name, r in families.RELEASED.items()}
  assert found["step-audio-r1"] == families.Sampling(0.7, 1.0, 1.0, 32_000)
  assert found["step-audio-2-mini"] == families.Sampling(0.7, 0.9, 1.05, 2048)
  assert families.RELEASED["step-audio-r1"].prefill == "<think>\n"
  assert families.RELEASED["step-audio-2-mini"].prefill == ""


DEFAULT = families.Sampling(0.7, 0.9, 1.05, 64)


@pytest.mark.parametrize(
  "config, expected",
  [
    ({}, DEFAULT),
    ({"eos_token_id": 7, "pad_token_id": 0}, DEFAULT),
    ({"do_sample": False}, families.Sampling(0.0, 1.0, 1.05, 64)),
    (
      {"do_sample": True, "temperature": 0.6, "top_p": 0.5, "top_k": 20},
      families.Sampling(0.6, 0.5, 1.05, 64, top_k=20),
    ),
    ({"do_sample": True}, families.Sampling(1.0, 1.0, 1.05, 64, top_k=50)),
    (
      {"do_sample": True, "top_k": 0},
      families.Sampling(1.0, 1.0, 1.05, 64, top_k=0),
    ),
    (
      {"repetition_penalty": 1, "max_new_tokens": 9, "temperature": None},
      families.Sampling(0.7, 0.9, 1.0, 9),
    ),
  ],
)
def test_the_generation_config_says_how_to_sample(tmp_path, config, expected):
  assert families.sampling(DEFAULT, tmp_path) == DEFAULT
  (tmp_path / "generation_config.json").write_text(json.dumps(config))
  assert families.sampling(DEFAULT, tmp_path) == expected
  assert families.sampling(DEFAULT) == DEFAULT


@pytest.mark.parametrize(
  "text, wrong",
  [
    ("{", "not JSON"),
    ("[1]", "not a JSON object"),
    ('{"top_p": "high"}', "top_p: 'high' is not a float"),
    ('{"top_k": 2.5}', "top_k: 2.5 is not a int"),
    ('{"do_sample": 1}', "do_sample: 1 is not a bool"),
    ('{"max_new_tokens": true}', "max_new_tokens: True is not a int"),
    ('{"max_new_tokens": 0}', "max_new_tokens: 0: give 1 or more"),
    ('{"do_sample": true, "temperature": -1}', "temperature: -1.0: give 0 or"),
    ('{"do_sample": true, "temperature": 1e-6}', "temperature: 1e-06: give 0"),
    ('{"do_sample": true, "top_p": 0.0}', "top_p: 0.0: give more than 0"),
    ('{"do_sample": true, "top_k": -1}', "top_k: -1: give 0 or more"),
    ('{"repetition_penalty": 0}', "repetition_penalty: 0.0: give 0.01 to 100"),
  ],
)
def test_a_broken_generation_config_is_named(tmp_path, text, wrong):
  path = tmp_path / "generation_config.json"
  path.write_text(text)
  with pytest.raises(ValueError) as refused:
    families.sampling(DEFAULT, tmp_path)
  assert str(refused.value).startswith(f"{path}: {wrong}")


def test_a_stop_that_is_no_id_is_named(tmp_path):
  folder = folder_of(tmp_path, "step-audio")
  found = families.load(folder, "step-audio")
  (folder / "generation_config.json").write_text('{"eos_token_id": ["x"]}')
  with pytest.raises(ValueError, match="eos_token_id: 'x' is not an id"):
    families.stop_ids(found, "step-audio", folder)
