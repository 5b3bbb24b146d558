"""Asks a trained model about sound files, and checks what it says.

    clips --log-mel, encoder, prompt--> reasoning, answer
    reasoning -> claims x measured facts -> supported | contradicted | ...

COMMAND: python -m experiments.ask --workdir=out/tiny clip.wav \\
           "how is the pitch?" --options=high,low
"""

import argparse
import dataclasses
import functools
import json
import math
import pathlib
import sys
import time
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np

from mgrd_jax.audio import features, io, measure
from mgrd_jax.data import transforms
from mgrd_jax.grounding import claims as claims_lib
from mgrd_jax.grounding import verify
from mgrd_jax.models import audio_lm
from mgrd_jax.rewards import format as format_lib
from mgrd_jax.rollout import engine, sampling
from mgrd_jax.text import chat
from mgrd_jax.text import tokenizer as tokenizer_lib
from mgrd_jax.train import checkpoint

CONTEXT = 512  # tokens of text in a prompt
MAX_SECONDS = 300.0  # of all clips together
MAX_NEW = 48
BANNED = (
  "<|endoftext|>", "<|BOT|>", "<audio_start>", "<audio_end>", "<audio_patch>",
  "<unk>",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Listener:
  """A trained model with its tokenizer, ready to be asked."""

  params: dict
  model: audio_lm.Config
  tokenizer: tokenizer_lib.HFTokenizer
  max_new: int
  programs: dict = dataclasses.field(default_factory=dict)


def stage_folder(workdir, stage: str = "") -> pathlib.Path:
  """The folder of the last finished stage, or of the one that is named.

  Raises:
    ValueError: there is none; names those there are.
  """
  home = pathlib.Path(workdir) / "stages"
  done = [
    path.parent
    for path in sorted(home.glob("*/result.json"))
    # The encoder's own stage leaves a decoder that never saw a word.
    if (path.parent / "params").is_dir()
    and not path.parent.name.endswith("_encoder")
  ]
  if not done:
    raise ValueError(
      f"{workdir}: no finished stage here; run python -m experiments.pipeline "
      f"--config=configs/pipeline.py:tiny --workdir={workdir}"
    )
  if not stage:
    return done[-1]
  for folder in done:
    if stage in (folder.name, folder.name.partition("_")[2]):
      return folder
  names = ", ".join(folder.name for folder in done)
  raise ValueError(f"{workdir}: no finished stage {stage!r}; there are {names}")


def load(workdir, stage: str = "") -> Listener:
  """Reads config, tokenizer and parameters of a run of the pipeline.

  Raises:
    ValueError: the folder holds no run with a finished stage, or one whose
      parts do not fit each other.
  """
  workdir = pathlib.Path(workdir)
  folder = stage_folder(workdir, stage)
  try:
    config = json.loads((workdir / "config.json").read_text())
    variant = config["model"]
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    path = workdir / "config.json"
    raise ValueError(f"{path}: not the config of a run") from error
  tokenizer = tokenizer_lib.load(workdir / "tokenizer.json")
  model = audio_lm.config_for(variant, vocab=tokenizer.vocab_size)
  params = checkpoint.restore(folder / "params")
  rows = params["decoder"]["embed_VD"].shape[0]
  if rows != tokenizer.vocab_size:
    raise ValueError(
      f"{folder}: a model of {rows} tokens, where {workdir}/tokenizer.json "
      f"has {tokenizer.vocab_size}"
    )
  max_new = config.get("evaluate", {}).get("max_new", MAX_NEW)
  # The trainer's device layout is of no use to one question.
  params = jax.tree.map(np.asarray, params)
  return Listener(params, model, tokenizer, max_new)


def read(paths) -> list[np.ndarray]:
  """The clips as wave_W at 16 kHz.

  Raises:
    ValueError: a clip cannot be used, or all together are too long.
  """
  waves, left = [], MAX_SECONDS
  for path in paths:
    wave_W, info = io.read(path, max_seconds=MAX_SECONDS)
    left -= info.seconds
    if left < 0:
      raise ValueError(
        f"{path}: the clips are over {MAX_SECONDS:g} s together; cut them"
      )
    if not features.token_count(min(len(wave_W), features.CHUNK)):
      raise ValueError(f"{path}: too short to be heard; give at least 0.1 s")
    waves.append(wave_W)
  return waves


def chunked(waves) -> list[np.ndarray]:
  """Pieces of at most 25 s, each to be heard as a clip of its own.

  A rest that is shorter than one audio token is left out.
  """
  return [
    wave_W[start:end]
    for wave_W in waves
    for start, end in features.chunks(len(wave_W))
    if features.token_count(end - start)
  ]


def _up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def _hear(encoder_params, wave_BW, len_B, *, model):
  """Waves -> the encoder's states, as every later stage of training reads."""
  mel_BRM = features.log_mel(wave_BW, len_B)
  # Training keeps its log-mels in half precision.
  mel_BRM = mel_BRM.astype(jnp.float16).astype(jnp.float32)
  mel_len_B = features.encoder_input_len(len_B)
  return audio_lm.encode(encoder_params, mel_BRM, mel_len_B, config=model)[0]


def _answer(params, batch, seed, *, model, banned, **settings):
  """A prompt and the states of its clips -> sampled ids and their number."""
  token_BT, _, len_B, _ = engine.generate(
    params,
    batch,
    jnp.zeros(1, jnp.int32),
    jax.random.key(seed),
    prefill=functools.partial(audio_lm.prefill, config=model),
    decode=functools.partial(audio_lm.decode, config=model),
    samples=1,
    ban_V=sampling.ban(model.decoder.vocab, banned),
    **settings,
  )
  return token_BT, len_B


def _compiled(function, *args):
  # It runs once, for a tenth of a second; optimising it would take a second.
  options = {"xla_backend_optimization_level": 0}
  return jax.jit(function, compiler_options=options).lower(*args).compile()


def _programs(listener: Listener, wave_BW, len_B, batch, temperature: float):
  """The two programs of these shapes, compiled side by side at first use."""
  shapes = (wave_BW.shape, batch.tokens_BT.shape, temperature)
  if shapes not in listener.programs:
    tokenizer, model = listener.tokenizer, listener.model
    hear = functools.partial(_hear, model=model)
    answer = functools.partial(
      _answer,
      model=model,
      banned=tuple(tokenizer.id(name) for name in BANNED),
      max_new=listener.max_new,
      stop_id=tokenizer.id("<|EOT|>"),
      temperature=temperature,
    )
    with futures.ThreadPoolExecutor(1) as pool:
      answering = pool.submit(
        _compiled, answer, _spoken(listener.params), batch, np.uint32(0)
      )
      hearing = _compiled(hear, listener.params["encoder"], wave_BW, len_B)
      listener.programs[shapes] = hearing, answering.result()
  return listener.programs[shapes]


def _spoken(params) -> dict:
  return {name: params[name] for name in ("adapter", "decoder")}


def prompt(listener: Listener, pieces, question, options=(), *, direct=False):
  """The tokenised question, with a span of placeholders a piece.

  Raises:
    ValueError: it is empty, too long, or holds a special token.
  """
  if not question.strip():
    raise ValueError("the question is empty; ask something of the clip")
  counts = [features.token_count(len(piece)) for piece in pieces]
  row = chat.prompt(
    listener.tokenizer, question, options, counts=counts, direct=direct
  )
  words = len(row.tokens) - sum(counts)
  if words > CONTEXT:
    raise ValueError(
      f"the question is too long: {words} tokens where {CONTEXT} are allowed; "
      "shorten it"
    )
  return row


def respond(
  listener: Listener, pieces, row, *, direct=False, temperature=0.0, seed=0
) -> str:
  """The full text of the response, the think tag in the prompt included."""
  # Padded to few shapes, so that many questions share one program.
  longest = max(len(piece) for piece in pieces)
  samples = min(_up(longest, 5 * features.RATE), features.CHUNK)
  wave_BW = np.zeros((len(pieces), samples), np.float32)
  for at, piece in enumerate(pieces):
    wave_BW[at, : len(piece)] = piece
  len_B = np.array([len(piece) for piece in pieces], np.int32)
  frames = features.pooled_frames(features.mel_frames(samples))
  width = listener.model.encoder.width
  shape = transforms.Shape(
    _up(len(row.tokens), 64), len(pieces), frames, width
  )
  # The encoder's states are only held a place, until it has run.
  enc_AE = np.zeros((frames, width), np.float32)
  item = transforms.Item(row, (enc_AE,) * len(pieces))
  batch = transforms.collate([item], shape)
  hear, answer = _programs(listener, wave_BW, len_B, batch, temperature)
  enc_BAE = hear(listener.params["encoder"], wave_BW, len_B)
  batch = dataclasses.replace(batch, enc_BAE=enc_BAE)
  token_BT, new_B = answer(_spoken(listener.params), batch, np.uint32(seed))
  text = listener.tokenizer.decode(np.asarray(token_BT)[0, : int(new_B[0])])
  return (chat.EMPTY if direct else chat.OPEN) + text


def judged(think: str, waves) -> list[dict]:
  """Each claim of a chain with its verdict on the clips it speaks of."""
  facts = [measure.facts(wave_W) for wave_W in waves]
  return [
    {
      "text": claim.text,
      "attribute": claim.attribute,
      "value": claim.value,
      "clip": claim.clip,
      "verdict": verify.verdict(claim, facts),
    }
    for claim in claims_lib.parse(think)
  ]


def ask(listener: Listener, waves, question, options=(), **settings) -> dict:
  """One question about clips: {question, options, think, answer, claims}.

  `settings` are those of `respond`.  The answer is "" where the reasoning
  did not come to an end.
  """
  pieces = chunked(waves)
  direct = settings.get("direct", False)
  row = prompt(listener, pieces, question, options, direct=direct)
  text = respond(listener, pieces, row, **settings)
  parsed = format_lib.parse(text.split("<|EOT|>")[0])
  think = parsed.think.strip()
  return {
    "question": question,
    "options": list(options),
    "think": think,
    "answer": chat.reply_only(parsed.reply) if parsed.closed else "",
    "claims": judged(think, waves),
  }


def show(found: dict) -> None:
  """Prints the reasoning, its claims with their verdicts, and the answer."""
  print(f"reasoning: {found['think'] or '(none)'}")
  for claim in found["claims"]:
    print(f"  {claim['text']:<24} {claim['verdict']}")
  print(f"answer: {found['answer'] or '(none: the response did not end)'}")


class _Parser(argparse.ArgumentParser):
  def error(self, message):
    self.exit(2, f"{self.prog}: {message} (--help lists all)\n")


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog="ask",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("clips", nargs="+", help="WAV, FLAC, OGG or MP3 files")
  parser.add_argument("question", help="in quotation marks")
  parser.add_argument("--workdir", required=True, help="of the pipeline")
  parser.add_argument("--options", default="", help="answers: a,b,c")
  parser.add_argument("--direct", action="store_true", help="do not reason")
  parser.add_argument("--json", action="store_true", help="one JSON object")
  parser.add_argument("--stage", default="", help="default: the last finished")
  parser.add_argument("--temperature", type=float, default=0.0)
  parser.add_argument("--seed", type=int, default=0, help="of the samples")
  return parser


def _run(args) -> None:
  clock = time.monotonic()
  options = [o.strip() for o in args.options.split(",")] if args.options else []
  if options and (len(set(options)) < max(2, len(options)) or "" in options):
    raise ValueError("--options: name two or more, each once, such as a,b,c")
  if not (math.isfinite(args.temperature) and args.temperature >= 0):
    raise ValueError("--temperature: give 0 or more")
  if pathlib.Path(args.question[:255]).is_file():
    raise ValueError(f"{args.question}: a file where the question should be")
  waves = read(args.clips)
  found = ask(
    load(args.workdir, args.stage),
    waves,
    args.question,
    options,
    direct=args.direct,
    temperature=args.temperature,
    seed=args.seed,
  )
  found["seconds"] = round(time.monotonic() - clock, 3)
  if args.json:
    print(json.dumps(found))
  else:
    show(found)


def main(argv: list[str] | None = None) -> int:
  """Answers one question; returns the exit status."""
  args = _parser().parse_intermixed_args(argv)
  try:
    _run(args)
  except (ValueError, OSError) as error:
    print(f"ask: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
