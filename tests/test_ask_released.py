"""`experiments.ask --checkpoint`: released folders, any clip, streamed."""

import dataclasses
import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import answering, ask, listener
from experiments import convert as convert_command
from mgrd_jax.audio import features
from mgrd_jax.models import audio_lm, convert, released
from mgrd_jax.rewards import format as format_lib
from mgrd_jax.types import Batch
from tests.models import checkpoints
from tests.test_ask import clip, only_error, written
from tests.text import byte_pairs

QUESTION = "what is heard?"
VOCAB = {"step-audio": 158_720, "qwen2-audio": 156_032}


def config_of(family):
  """The small model, over the published vocabulary, one layer of each."""
  config = json.loads(json.dumps(checkpoints.FAMILIES[family]))
  config.pop("audio_token_id", None)
  if family == "qwen2-audio":
    config["audio_token_index"] = 151646
    config["audio_config"]["encoder_layers"] = 1
  else:
    config["audio_encoder_config"]["n_audio_layer"] = 1
  config["text_config"] |= {
    "vocab_size": VOCAB[family],
    "num_hidden_layers": 2,
    "max_position_embeddings": 1024,
  }
  return config


@pytest.fixture(scope="module", params=sorted(VOCAB))
def folder(request, tmp_path_factory):
  home = tmp_path_factory.mktemp("released") / request.param
  checkpoints.write(home, config_of(request.param))
  byte_pairs.write(home, byte_pairs.SPECIAL[request.param])
  return home


@pytest.fixture(scope="module")
def heard(folder):
  return listener.read_released(folder).loaded()


def run(capsys, *flags):
  assert ask.main([*map(str, flags)]) == 0
  return capsys.readouterr().out


def test_a_released_folder_answers_about_an_mp3(folder, tmp_path, capsys):
  path = written(tmp_path, clip(1.0, 44_100, 2, format="MP3"), "clip.mp3")
  flags = (f"--checkpoint={folder}", path, QUESTION, "--max_new=12")
  if "qwen2" in folder.name:
    shown = run(capsys, *flags, "--seed=3")
    # It was not asked to reason; a reply comes at once.
    assert shown.startswith("answer: ") and "reasoning: (none)" in shown
    return
  found = json.loads(run(capsys, *flags, "--json", "--seed=3"))
  assert found["question"] == QUESTION
  assert found["think"] and not found["answer"]


def test_the_released_settings_are_the_defaults(heard):
  if heard.model.family == released.STEP_AUDIO:
    # Sizes of neither release: the first of the family.
    assert (heard.sampling.temperature, heard.sampling.top_p) == (0.7, 1.0)
    assert heard.opening == "<think>\n"
  assert heard.context == 1024 and not heard.own
  vocab = heard.model.decoder.vocab
  assert heard.model.patch_id in heard.banned
  assert not set(heard.stop_ids) & set(heard.banned)
  assert max(heard.banned) < vocab


def rows(heard, seconds, **settings):
  rng = np.random.default_rng(0)
  wave_W = rng.normal(0, 0.1, int(seconds * features.RATE)).astype(np.float32)
  pieces = answering.chunked(wave_W, heard.piece)
  return pieces, answering.prompt(heard, [pieces], QUESTION, **settings)


def test_a_long_clip_has_a_span_a_piece(heard):
  pieces, row = rows(heard, 32.0)
  counts = [count for _, count in row.spans]
  want = [750, 50] if heard.piece == 30 * features.RATE else [313, 88]
  rule = audio_lm.convention(heard.model)
  assert counts == want == [features.token_count(len(p), rule) for p in pieces]
  assert (row.tokens == heard.model.patch_id).sum() == sum(counts)


def test_a_clip_has_the_tokens_that_the_published_code_counts(folder, heard):
  # 130 frames: a length where the published code and its server differ.
  _, row = rows(heard, 1.3)
  qwen2 = heard.model.family == released.QWEN2_AUDIO
  assert [count for _, count in row.spans] == [32 if qwen2 else 16]
  if qwen2:
    with pytest.raises(ValueError, match="counted in one way"):
      listener.read_released(folder, vllm=True)
    return
  other = listener.read_released(folder, vllm=True).loaded()
  assert [count for _, count in rows(other, 1.3)[1].spans] == [17]
  pieces, row = rows(other, 1.3)
  assert len(greedy(other, pieces, row, steps=2)[1]) == 2


def test_options_stand_where_the_release_was_evaluated_with_them(heard):
  _, row = rows(heard, 0.5, options=("a dog", "a cat"))
  text = heard.tokenizer.decode(row.tokens)
  assert "A. a dog\nB. a cat\n" in text
  first = row.spans[0][0]
  asked = len(heard.tokenizer.encode(text.split("A. a dog")[0]))
  # Step-Audio reads the choices before it hears, Qwen2-Audio after.
  assert (asked < first) == (heard.model.family == released.STEP_AUDIO)


def test_what_does_not_fit_the_context_is_refused_with_both_lengths(heard):
  wrong = r"prompt of \d+ tokens.* context is 1024.*max_position_embeddings"
  for plain in (False, True):
    with pytest.raises(ValueError, match=wrong):
      rows(heard, 100.0, plain=plain)


def test_a_base_model_is_prompted_without_turns(folder, tmp_path, capsys):
  path = written(tmp_path, clip(0.5))
  flags = [f"--checkpoint={folder}", path, "Caption:", "--plain"]
  if "step-audio" in folder.name:
    assert ask.main(flags) == 1
    error = only_error(capsys)
    assert "--plain: for qwen2-audio's base model" in error
    assert f"{folder} is step-audio" in error
    return
  for flag in ("--system=x", "--think"):
    assert ask.main([*flags, flag]) == 1
    assert f"leave out {flag.split('=')[0]}" in only_error(capsys)
  assert run(capsys, *flags, "--max_new=4").startswith("answer: ")


def test_a_plain_prompt_is_the_span_and_the_words(heard):
  if heard.model.family != released.QWEN2_AUDIO:
    return
  _, row = rows(heard, 32.0, plain=True)
  one = heard.tokenizer
  spans = [
    i
    for count in (750, 50)
    for i in (
      one.id("<|audio_bos|>"),
      *[heard.model.patch_id] * count,
      one.id("<|audio_eos|>"),
    )
  ]
  assert row.tokens.tolist() == spans + one.encode(QUESTION)


def test_a_released_model_keeps_its_own_words(heard):
  """What our own models say before an answer is no part of theirs."""
  said = "answer: a dog"
  assert answered(heard, said) == said
  own = dataclasses.replace(heard, context=None)
  assert own.own and answered(own, said) == "a dog"


def answered(heard, text):
  reader = ask.reader(heard, lambda kind, text: None)
  reader.add(text)
  reader.end()
  return reader.parts[1]


def greedy(heard, pieces, row, steps=24, programs=None):
  drawn = dict(temperature=0.0, max_new=steps, top_k=0, top_p=1.0)
  drawn |= {"repetition_penalty": 1.0}
  settings = type(heard.sampling)(**drawn)
  programs = {} if programs is None else programs
  one = dataclasses.replace(heard, sampling=settings, programs=programs)
  return one, [i for new in answering._ids(one, pieces, row, 0) for i in new]


def test_streamed_ids_are_those_of_the_whole_forward_pass(heard):
  """A prompt by blocks, a cache that grows, a block of steps: no difference."""
  pieces, row = rows(heard, 1.3)
  assert len(row.tokens) > 32
  old = answering.BLOCK, answering.PREFILL
  answering.BLOCK, answering.PREFILL = 8, 16
  try:
    one, ids = greedy(heard, pieces, row, steps=80)
  finally:
    answering.BLOCK, answering.PREFILL = old
  assert "_grow" in {name for name, *_ in one.programs}
  params = convert.load(heard.folder, heard.model)
  # The clip alone, of its own length: padding is no part of it.
  log_mel = features.log_mel_30s if heard.piece > 400_000 else features.log_mel
  len_B = jnp.array([len(pieces[0])])
  mel_BRM = log_mel(jnp.asarray(pieces[0])[None], len_B)
  encode = functools.partial(audio_lm.encode, config=heard.model)
  enc_BAE, _ = jax.jit(encode)(
    params["encoder"], mel_BRM, features.encoder_input_len(len_B)
  )
  tokens = np.array([[*row.tokens, *ids]], np.int32)
  index = np.full(tokens.shape, -1, np.int32)
  ((first, count),) = row.spans
  index[0, first : first + count] = np.arange(count)
  valid = np.ones(tokens.shape, bool)
  whole = Batch(tokens, valid, valid, index, enc_BAE)
  logits_BTV = np.array(audio_lm.apply(params, whole, config=heard.model))
  logits_BTV[..., list(heard.banned)] = -np.inf
  at = len(row.tokens) - 1
  for step, i in enumerate(ids):
    best = logits_BTV[0, at + step].max()
    # bfloat16 sums in another order: what was taken is as likely, to 1 %.
    assert logits_BTV[0, at + step, i] >= best - 0.05


def test_an_imported_folder_answers_as_the_released_one(
  folder, heard, tmp_path, capsys
):
  out = tmp_path / "imported"
  flags = [f"--checkpoint={folder}", f"--out={out}"]
  assert convert_command.main(["import", *flags]) == 0
  capsys.readouterr()
  pieces, row = rows(heard, 0.5)
  one, ids = greedy(heard, pieces, row)
  again = listener.read_released(out).loaded()
  assert greedy(again, pieces, row, programs=one.programs)[1] == ids
  shutil.rmtree(out)


def test_direct_closes_the_block_where_there_is_one(
  folder, heard, tmp_path, capsys
):
  if heard.opening:
    _, row = rows(heard, 0.5, direct=True)
    assert format_lib.CLOSE in heard.tokenizer.decode(row.tokens)
    return
  path = written(tmp_path, clip(0.5))
  flags = [f"--checkpoint={folder}", path, QUESTION, "--direct"]
  assert ask.main(flags) == 1
  assert f"--direct: for a model that reasons first, where {folder}" in (
    only_error(capsys)
  )


@pytest.mark.parametrize(
  "flag, message",
  [
    ("--top_p=0", "--top_p: 0.0: give more than 0 and at most 1"),
    ("--top_p=1.5", "--top_p: 1.5: give more than 0 and at most 1"),
    ("--repetition_penalty=0", "--repetition_penalty: 0.0: give 0.01 to 100"),
    ("--max_new=0", "--max_new: 0: give 1 or more"),
    ("--temperature=nan", "--temperature: nan: give 0 or more"),
    ("--temperature=1e-30", "--temperature: 1e-30: give 0"),
    ("--stage=01_cold_start", "--stage: for a run of our own"),
    ("--seed=-1", "--seed: give 0 to 4294967295"),
    ("--seed=99999999999", "--seed: give 0 to 4294967295"),
  ],
)
def test_a_bad_setting_is_one_line(flag, message, folder, tmp_path, capsys):
  path = written(tmp_path, clip())
  flags = [f"--checkpoint={folder}", path, QUESTION, flag]
  assert ask.main(flags) == 1
  assert message in only_error(capsys)


@pytest.mark.parametrize(
  "question, seconds, message",
  [
    (" ", 0.5, "the question is empty"),
    ("<|endoftext|> hello", 0.5, "special token '<|endoftext|>'"),
    ("what? " * 2000, 0.5, r"a prompt of \d+ tokens.* context is 1024"),
    (QUESTION, 100.0, r"a prompt of \d+ tokens, \d+ of them audio.* 1024"),
    (QUESTION, 0.5, "neither model.safetensors nor"),
  ],
)
def test_the_question_is_checked_before_any_weights_are_read(
  question, seconds, message, folder, tmp_path, capsys
):
  """And what does not fit names the folder of the model."""
  home = without_weights(folder, tmp_path)
  path = written(tmp_path, clip(seconds))
  assert ask.main([f"--checkpoint={home}", path, question]) == 1
  named = "" if "empty" in message else f"ask: {home}: .*"
  assert re.search(named + message, only_error(capsys))


def test_the_settings_are_read_before_any_weights_are(
  folder, tmp_path, capsys
):
  home = without_weights(folder, tmp_path)
  (home / "generation_config.json").write_text('{"top_p": "high"}')
  path = written(tmp_path, clip(0.5))
  assert ask.main([f"--checkpoint={home}", path, QUESTION]) == 1
  assert "generation_config.json: top_p: 'high'" in only_error(capsys)


def without_weights(folder, tmp_path):
  home = tmp_path / "bare"
  ignore = shutil.ignore_patterns("*.safetensors")
  return shutil.copytree(folder, home, ignore=ignore)


def test_a_model_that_does_not_reason_is_not_asked_for_less(
  tmp_path, capsys
):
  """Step-Audio-2-mini, known by its width; its weights are not needed."""
  config = config_of("step-audio")
  config["text_config"]["hidden_size"] = 3584
  config["audio_encoder_config"]["llm_dim"] = 3584
  home = byte_pairs.write(tmp_path / "mini", byte_pairs.SPECIAL["step-audio"])
  (home / "config.json").write_text(json.dumps(config))
  path = written(tmp_path, clip(0.5))
  flags = [f"--checkpoint={home}", path, QUESTION]
  assert ask.main([*flags, "--direct"]) == 1
  assert "--direct: for a model that reasons first" in only_error(capsys)
  # It is not the model that is refused.
  assert ask.main(flags) == 1
  assert "neither model.safetensors nor" in only_error(capsys)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("how", ["absent", "broken"])
def test_a_folder_that_lacks_something_is_one_line_that_names_it(
  file, how, folder, tmp_path, capsys
):
  home = tmp_path / "copy"
  shutil.copytree(folder, home)
  (home / file).unlink()
  if how == "broken":
    (home / file).write_text("no json")
  path = written(tmp_path, clip())
  assert ask.main([f"--checkpoint={home}", path, QUESTION]) == 1
  assert file in only_error(capsys)
