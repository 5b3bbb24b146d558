"""`experiments.ask`: any clip, one answer; bad input is one line."""

import functools
import io as stdlib_io
import json
import re

import jax
import numpy as np
import pytest
import soundfile

from experiments import answering, ask
from experiments import listener as listener_lib
from mgrd_jax.audio import features
from mgrd_jax.models import audio_lm
from mgrd_jax.text import chat
from mgrd_jax.text import tokenizer as tokenizer_lib
from mgrd_jax.train import checkpoint
from tests import toys

QUESTION = "how is the pitch?"
CLAIMS = "high pitch, loud volume, happy voice"


@functools.cache
def tokenizer():
  return tokenizer_lib.build(
    [f"human assistant options: | {QUESTION} {CLAIMS} low so {chat.LEAD_IN}"]
  )


@functools.cache
def parameters():
  """Untrained ones, drawn by numpy: compiling the draws takes far longer."""
  rng = np.random.default_rng(0)
  model = audio_lm.config_for("tiny", vocab=tokenizer().vocab_size)
  init = functools.partial(audio_lm.init, config=model)
  return jax.tree.map(
    lambda leaf: rng.normal(0, 0.05, leaf.shape).astype(np.float32),
    jax.eval_shape(init, jax.random.key(0)),
  )


def stage(workdir, name, params=None):
  folder = workdir / "stages" / name
  checkpoint.save(folder / "params", params or parameters())
  (folder / "result.json").write_text(json.dumps({"name": name}))
  return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A run as the pipeline leaves it: two finished stages, one begun."""
  folder = tmp_path_factory.mktemp("run")
  config = {"model": "tiny", "evaluate": {"max_new": 6}}
  (folder / "config.json").write_text(json.dumps(config))
  tokenizer().save(folder / "tokenizer.json")
  stage(folder, "00_encoder")
  stage(folder, "01_cold_start")
  (folder / "stages" / "02_text_rlvr").mkdir()
  return folder


@pytest.fixture(scope="module")
def listener(workdir):
  return listener_lib.read(workdir).loaded()


def clip(seconds=1.0, rate=16_000, channels=1, format="WAV", **settings):
  time = np.arange(int(seconds * rate)) / rate
  wave = 0.3 * np.sin(2 * np.pi * 220 * time)
  buffer = stdlib_io.BytesIO()
  wave = np.repeat(wave[:, None], channels, axis=1)
  soundfile.write(buffer, wave, rate, format=format, **settings)
  return buffer.getvalue()


def nan_clip():
  buffer = stdlib_io.BytesIO()
  wave = np.full(16_000, np.nan, np.float32)
  soundfile.write(buffer, wave, 16_000, format="WAV", subtype="FLOAT")
  return buffer.getvalue()


def written(tmp_path, data, name="clip.bin"):
  path = tmp_path / name
  path.write_bytes(data)
  return str(path)


def test_a_stereo_clip_at_8_khz_gives_one_json_object(
  workdir, tmp_path, capsys
):
  path = written(tmp_path, clip(rate=8_000, channels=2))
  flags = [f"--workdir={workdir}", path, "--options=high, low", QUESTION]
  assert ask.main([*flags, "--json"]) == 0
  out, err = capsys.readouterr()
  found = json.loads(out)
  assert out.count("\n") == 1 and not err
  assert list(found) == [
    "question", "options", "think", "answer", "claims", "seconds",
  ]  # fmt: skip
  assert found["question"] == QUESTION
  assert found["options"] == ["high", "low"]
  assert found["seconds"] > 0


def test_any_container_is_told_by_its_content(tmp_path):
  for kind in ("WAV", "FLAC", "OGG", "MP3"):
    data = clip(rate=8_000, channels=2, format=kind)
    (wave_W,) = answering.read([written(tmp_path, data)])
    assert wave_W.ndim == 1
    assert abs(len(wave_W) / features.RATE - 1) < 0.1


def test_a_minute_is_heard_in_three_pieces_with_a_span_each(
  listener, tmp_path
):
  (wave_W,) = answering.read([written(tmp_path, clip(60.0, 8_000))])
  pieces = answering.chunked(wave_W)
  assert [len(p) / features.RATE for p in pieces] == [25, 25, 10]
  np.testing.assert_array_equal(np.concatenate(pieces), wave_W)
  row = answering.prompt(listener, [pieces], QUESTION)
  assert [count for _, count in row.spans] == [313, 313, 125]
  text = "".join(answering.respond(listener, pieces, row))
  assert text.startswith(chat.OPEN) and len(text) > len(chat.OPEN)


def test_a_rest_shorter_than_one_token_is_left_out():
  wave_W = np.zeros(features.CHUNK + 100, np.float32)
  assert [len(p) for p in answering.chunked(wave_W)] == [features.CHUNK]


def test_padding_does_not_change_what_is_heard(listener):
  rng = np.random.default_rng(1)
  wave_W = rng.normal(0, 0.1, 20_000).astype(np.float32)
  hear = functools.partial(answering._hear, model=listener.model, own=True)
  hear = toys.jit(hear)
  states = []
  for samples in (20_000, 48_000):
    wave_BW = np.zeros((1, samples), np.float32)
    wave_BW[0, :20_000] = wave_W
    len_B = np.array([20_000], np.int32)
    states.append(np.asarray(hear(parameters()["encoder"], wave_BW, len_B)[0]))
  short, long = states
  np.testing.assert_allclose(long[: len(short)], short, atol=2e-3)
  assert not long[len(short) :].any()


def test_claims_are_judged_on_the_waveform():
  time = np.arange(32_000) / 16_000
  loud = (0.9 * np.sin(2 * np.pi * 2000 * time)).astype(np.float32)
  told = {c["text"]: c["verdict"] for c in ask.judged(CLAIMS, [loud])}
  assert told == {
    "high pitch": "supported",
    "loud volume": "supported",
    "happy voice": "unverifiable",
  }
  soft = ask.judged("high pitch, loud volume", [0.01 * loud])
  assert [c["verdict"] for c in soft] == ["supported", "contradicted"]


def test_claims_on_a_long_clip_are_listed_and_not_judged(capsys):
  wave = np.sin(2 * np.pi * 2000 * np.arange(31 * 16_000) / 16_000)
  long, short = wave.astype(np.float32), wave[:32_000].astype(np.float32)
  chain = "first clip: high pitch. second clip: high pitch"
  for waves, want in (
    ([long, short], [None, "supported"]),
    ([short, long], ["supported", None]),
    ([long], [None, "unverifiable"]),
  ):
    told = ask.judged(chain, waves)
    assert [c["verdict"] for c in told] == want
    assert re.search("claims on clip [12] are not judged", only_error(capsys))
  assert ask.judged("it sounds nice", [long]) == []
  # Nothing is measured where nothing is claimed.
  assert ask.judged("it sounds nice", [None]) == []


def test_judging_never_loses_an_answer(capsys):
  assert ask._judged("high pitch", [np.zeros((2, 2, 2))]) == []
  assert "the claims could not be judged" in only_error(capsys)


def test_the_printed_answer_shows_each_claim_with_its_verdict(capsys):
  claim = {"text": "high pitch", "verdict": "supported"}
  printer = ask.Printer()
  reader = ask.Reader(printer)
  for text in ("<think>\n", "high", " pitch\n</th", "ink>\nanswer:", " high"):
    reader.add(text)
  reader.end()
  think, answer = reader.parts
  printer.finish({"think": think, "claims": [claim], "answer": answer})
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == "reasoning: high pitch"
  assert lines[1] == "answer: high"
  assert lines[2].split() == ["high", "pitch", "supported"]


def test_what_is_said_is_shown_while_it_is_said():
  shown = []
  reader = ask.Reader(lambda kind, text: shown.append((kind, text)))
  reader.add("<think>\nit is a rather long thought")
  assert shown and shown[0][0] == "reasoning"
  reader.add("</think>\nanswer: high")
  reader.end()
  for kind, want in zip(("reasoning", "answer"), reader.parts, strict=True):
    assert "".join(text for k, text in shown if k == kind) == want
  # A model that opens the block itself, behind a line break.
  own = ask.Reader(lambda kind, text: None)
  own.add("\n<think>\nit barks</think>\na dog")
  assert own.parts == ("it barks", "a dog")
  # A model that does not reason answers at once.
  plain = ask.Reader(lambda kind, text: None)
  plain.add("a dog barks")
  assert plain.parts == ("", "a dog barks")


def test_the_last_finished_stage_answers_unless_one_is_named(workdir):
  assert listener_lib.stage_folder(workdir).name == "01_cold_start"
  for name in ("cold_start", "01_cold_start"):
    assert listener_lib.stage_folder(workdir, name).name == "01_cold_start"
  for name in ("text_rlvr", "encoder", "nonsense"):
    with pytest.raises(ValueError, match=f"'{name}'; there are 01_cold_start"):
      listener_lib.stage_folder(workdir, name)


def test_an_answer_may_be_as_long_as_the_run_let_it_be(tmp_path):
  """6 by config.json; 24 for the chains of the user's own rows."""
  (tmp_path / "config.json").write_text(
    json.dumps({"model": "tiny", "evaluate": {"max_new": 6}})
  )
  tokenizer().save(tmp_path / "tokenizer.json")
  stage(tmp_path, "01_cold_start")
  assert listener_lib.read(tmp_path).sampling.max_new == 6
  for needed, most in ((24, 24), (0, 6)):
    (tmp_path / "own.json").write_text(json.dumps({"max_new": needed}))
    assert listener_lib.read(tmp_path).sampling.max_new == most


@pytest.mark.parametrize("flag", ["workdir", "checkpoint"])
def test_a_stage_that_was_run_alone_is_asked(flag, tmp_path, capsys):
  """What `python -m experiments.sft --workdir=out/sft` leaves."""
  config = {"model": "tiny", "data": {}, "stage": 1}
  (tmp_path / "config.json").write_text(json.dumps(config))
  tokenizer().save(tmp_path / "tokenizer.json")
  checkpoint.save(tmp_path / "params", parameters())
  path = written(tmp_path, clip())
  flags = [f"--{flag}={tmp_path}", path, QUESTION, "--max_new=4", "--json"]
  assert ask.main(flags) == 0
  assert json.loads(capsys.readouterr().out)["question"] == QUESTION


BAD_CLIPS = {
  "no such file": None,
  "empty file": b"",
  "no samples": clip(0.0),
  "NaN or infinite samples": nan_clip(),
  "not audio": b"these are words\n" * 50,
  "corrupt or cut short": clip()[:2000],
  "too short to be heard": clip(0.01),
  "too long": clip(301.0, 1000),
}


def only_error(capsys):
  out, err = capsys.readouterr()
  assert not out
  assert err.startswith("ask: ") and err.count("\n") == 1, err
  return err


@pytest.mark.parametrize("message", BAD_CLIPS)
def test_a_bad_clip_is_one_line(message, workdir, tmp_path, capsys):
  path = str(tmp_path / "clip.bin")
  if BAD_CLIPS[message] is not None:
    written(tmp_path, BAD_CLIPS[message])
  assert ask.main([f"--workdir={workdir}", path, QUESTION]) == 1
  assert re.search(f"clip.bin: .*{message}", only_error(capsys))


@pytest.mark.parametrize(
  "question, flags, message",
  [
    ("", [], "the question is empty"),
    ("what? " * 400, [], "too long: .* tokens where 512 are allowed"),
    ("<|EOT|> hello", [], "special token '<|EOT|>'"),
    (QUESTION, ["--options=a,<think>"], "special token '<think>'"),
    (QUESTION, ["--options=a"], "--options: name two or more"),
    (QUESTION, ["--options=a,a"], "--options: name two or more"),
    (QUESTION, ["--temperature=-1"], "--temperature: -1.0: give 0 or more"),
    (QUESTION, ["--system=x"], "--system: for a released checkpoint"),
    (QUESTION, ["--stage=mgrd_9_sft"], "no finished stage 'mgrd_9_sft'"),
  ],
)
def test_a_bad_question_is_one_line(
  question, flags, message, workdir, tmp_path, capsys
):
  path = written(tmp_path, clip())
  assert ask.main([f"--workdir={workdir}", path, question, *flags]) == 1
  assert re.search(message.replace("|", r"\|"), only_error(capsys))


def test_a_long_question_in_another_script_is_no_file_name(
  workdir, tmp_path, capsys
):
  path = written(tmp_path, clip())
  assert ask.main([f"--workdir={workdir}", path, "\u8fd9" * 700]) == 1
  assert "the question is too long" in only_error(capsys)


def test_a_forgotten_question_is_one_line(workdir, tmp_path, capsys):
  path = written(tmp_path, clip())
  assert ask.main([f"--workdir={workdir}", path, path]) == 1
  assert "a file where the question should be" in only_error(capsys)
  with pytest.raises(SystemExit) as exit_:
    ask.main([f"--workdir={workdir}", path])
  assert exit_.value.code == 2
  assert "question" in only_error(capsys)


def test_a_folder_without_a_finished_stage_is_one_line(tmp_path, capsys):
  path = written(tmp_path, clip())
  assert ask.main([f"--workdir={tmp_path}", path, QUESTION]) == 1
  assert "no finished stage here; run" in only_error(capsys)


def test_a_checkpoint_of_another_vocabulary_is_refused(
  workdir, tmp_path, capsys
):
  path = written(tmp_path, clip())
  (tmp_path / "config.json").write_text(json.dumps({"model": "tiny"}))
  tokenizer_lib.build(["few words"]).save(tmp_path / "tokenizer.json")
  stage(tmp_path, "01_cold_start")
  assert ask.main([f"--workdir={tmp_path}", path, QUESTION]) == 1
  assert "tokenizer.json has" in only_error(capsys)
