"""Asks a model about sound files, and checks what it says.

    clips --log-mel, encoder, prompt--> reasoning, answer
    reasoning -> claims x measured facts -> supported | contradicted | ...

COMMAND: python -m experiments.ask --workdir=out/tiny clip.wav \\
           "how is the pitch?" --options=high,low
         python -m experiments.ask --checkpoint=Step-Audio-R1 clip.mp3 \\
           "What does the speaker feel?"
         python -m experiments.ask --checkpoint=Qwen2-Audio-7B --plain \\
           clip.mp3 "Generate the caption in English:"
"""

import dataclasses
import json
import os
import sys
import time

import jax.numpy as jnp
from etils import epath

from experiments import answering, command, listener
from mgrd_jax import paths
from mgrd_jax.audio import features, measure
from mgrd_jax.grounding import claims as claims_lib
from mgrd_jax.grounding import verify
from mgrd_jax.models import released
from mgrd_jax.rewards import format as format_lib
from mgrd_jax.text import chat, families

_DRAWN = ("temperature", "top_p", "top_k", "repetition_penalty", "max_new")
DTYPES = {"bfloat16": jnp.bfloat16, "float32": jnp.float32}
FIX = (
  "give fewer or shorter clips, more devices, or a released checkpoint "
  "--dtype=bfloat16"
)


def judged(think: str, waves) -> list[dict]:
  """Each claim of a chain with its verdict on the clip it speaks of.

  None stands for the verdict on a clip of over 30 s, which is not measured:
  that takes gigabytes an hour.
  """
  claims = claims_lib.parse(think)
  spoken_of = {claim.clip for claim in claims if claim.clip < len(waves)}
  long = {at for at in spoken_of if len(waves[at]) > features.WINDOW}
  facts = [
    measure.facts(wave_W) if at in spoken_of - long else {}
    for at, wave_W in enumerate(waves)
  ]
  if long:
    names = " and ".join(f"clip {at + 1}" for at in sorted(long))
    _warn(f"claims on {names} are not judged: over 30 s")
  return [
    {
      "text": claim.text,
      "attribute": claim.attribute,
      "value": claim.value,
      "clip": claim.clip,
      "verdict": None if claim.clip in long else verify.verdict(claim, facts),
    }
    for claim in claims
  ]


def _judged(think: str, waves) -> list[dict]:
  """`judged`, or [] with a warning: an answer outlives its judge."""
  try:
    return judged(think, waves)
  except Exception as error:
    _warn(f"the claims could not be judged: {command.one_line(error)}")
    return []


def _warn(text: str) -> None:
  print(f"ask: {text}", file=sys.stderr)


class Reader:
  """Splits a response into reasoning and answer while it arrives.

  `show(kind, text)` is called with "reasoning" or "answer" and what is new of
  it, as soon as it cannot be a part of a tag.  `lead_in` is what our own
  models say before an answer; it is no part of it.
  """

  def __init__(self, show, lead_in: str = chat.LEAD_IN):
    self.text = ""
    self._show = show
    self._lead_in = lead_in
    self._shown = {"reasoning": 0, "answer": 0}

  def add(self, text: str) -> None:
    """Takes what came next."""
    self.text += text
    self._update(hold=len(format_lib.CLOSE))

  def end(self) -> None:
    """Shows what was held back."""
    self._update(hold=0)

  @property
  def parts(self) -> tuple[str, str]:
    """(reasoning, answer) so far, without tags."""
    text = self.text.lstrip()
    if not text.startswith(format_lib.OPEN):
      return "", "" if format_lib.OPEN.startswith(text) else self._reply(text)
    # A model that opens the block itself behind a prompt that did.
    body = text.removeprefix(format_lib.OPEN).lstrip()
    body = body.removeprefix(format_lib.OPEN)
    think, closed, reply = body.partition(format_lib.CLOSE)
    return think.strip(), self._reply(reply) if closed else ""

  def _reply(self, text: str) -> str:
    return text.strip().removeprefix(self._lead_in).strip()

  def _update(self, hold: int) -> None:
    for kind, whole in zip(self._shown, self.parts, strict=True):
      at = self._shown[kind]
      # What may become a closing tag, or a lead-in, waits.
      until = max(at, len(whole) - hold)
      if until > at:
        self._show(kind, whole[at:until])
        self._shown[kind] = until


def reader(heard: listener.Listener, show) -> Reader:
  """What splits the responses of this model."""
  return Reader(show, lead_in=chat.LEAD_IN if heard.own else "")


def ask(
  heard: listener.Listener,
  waves,
  question: str,
  options=(),
  *,
  show=lambda kind, text: None,
  direct: bool = False,
  system: str = "",
  plain: bool = False,
  seed: int = 0,
) -> dict:
  """One question about clips: {question, options, think, answer, claims}.

  The answer is "" where the reasoning did not come to an end.  `show` is told
  of reasoning and answer while they are said; `direct`, `system` and `plain`
  are those of `answering.prompt`.  The weights are read once the question is
  known to fit.
  """
  clips = [answering.chunked(wave_W, heard.piece) for wave_W in waves]
  row = answering.prompt(
    heard, clips, question, options, direct=direct, system=system, plain=plain
  )
  heard = heard.loaded()
  read = reader(heard, show)
  pieces = [piece for clip in clips for piece in clip]
  for text in answering.respond(heard, pieces, row, direct=direct, seed=seed):
    read.add(text)
  read.end()
  think, answer = read.parts
  return {
    "question": question,
    "options": list(options),
    "think": think,
    "answer": answer,
    "claims": _judged(think, waves),
  }


class Printer:
  """Prints reasoning and answer as they come, each behind its name."""

  def __init__(self):
    self._kind = None

  def __call__(self, kind: str, text: str) -> None:
    if kind != self._kind:
      end = "" if self._kind is None else "\n"
      print(f"{end}{kind}: ", end="")
      self._kind = kind
    print(text, end="", flush=True)

  def finish(self, found: dict) -> None:
    """The claims with their verdicts, behind what was said."""
    if self._kind is not None:
      print()
    if not found["think"]:
      print("reasoning: (none)")
    if not found["answer"]:
      print("answer: (none: the response did not end)")
    for claim in found["claims"]:
      print(f"  {claim['text']:<24} {claim['verdict'] or 'not judged'}")


def run_of(args) -> tuple[str, str] | None:
  """(workdir, stage) of a run of our own, None for a released checkpoint."""
  if args.workdir:
    return args.workdir, args.stage
  folder = epath.Path(args.checkpoint)
  if not paths.is_remote(folder):
    folder = epath.Path(os.path.realpath(folder))
  if folder.parent.name == "stages":
    if args.stage:
      raise ValueError("--stage: --checkpoint names one; leave it out")
    return str(folder.parent.parent), folder.name
  own = listener.is_own(folder)
  return (args.checkpoint, args.stage) if own else None


def listener_of(args) -> listener.Listener:
  """The listener that the flags name, drawing as they say; not loaded yet.

  Raises:
    ValueError: the folder holds no model, or the flags do not fit it.
  """
  run = run_of(args)
  for name in ("system", "dtype", "count", "plain") if run else ("stage",):
    if getattr(args, name):
      where = "a released checkpoint" if run else "a run of our own"
      raise ValueError(f"--{name}: for {where}; leave it out")
  if run:
    found = listener.read(*run)
  else:
    dtype = args.dtype and DTYPES[args.dtype]
    found = listener.read_released(
      args.checkpoint, dtype=dtype, vllm=args.count == "vllm"
    )
  _check_manner(args, found)
  given = {n: getattr(args, n) for n in _DRAWN if getattr(args, n) is not None}
  drawn = families.within(dataclasses.replace(found.sampling, **given))
  opening = chat.OPEN if args.think else found.opening
  return dataclasses.replace(found, sampling=drawn, opening=opening)


def _check_manner(args, found: listener.Listener) -> None:
  """Refuses a way of asking that the model does not know."""
  if args.direct and not found.opening:
    raise ValueError(
      f"--direct: for a model that reasons first, where {found.folder} answers "
      "at once; leave it out"
    )
  if not args.plain:
    return
  for name in ("system", "think"):
    if getattr(args, name):
      raise ValueError(f"--plain: a prompt without turns; leave out --{name}")
  if found.model.family != released.QWEN2_AUDIO:
    raise ValueError(
      f"--plain: for {released.QWEN2_AUDIO}'s base model, where "
      f"{found.folder} is {found.model.family}; leave it out"
    )


def _parser() -> command.Parser:
  parser = command.Parser(prog="ask", description=__doc__)
  add = parser.add_argument
  add("clips", nargs="+", help="WAV, FLAC, OGG or MP3 files")
  add("question", help="in quotation marks")
  where = parser.add_mutually_exclusive_group(required=True)
  where.add_argument("--workdir", help="of the pipeline")
  where.add_argument(
    "--checkpoint", help="a released folder, an imported one, or a stage"
  )
  add("--options", default="", help="answers: a,b,c")
  how = parser.add_mutually_exclusive_group()
  how.add_argument("--direct", action="store_true", help="do not reason")
  how.add_argument("--think", action="store_true", help="reason in any case")
  add("--plain", action="store_true", help="no turns, for Qwen2-Audio's base")
  add("--json", action="store_true", help="one JSON object")
  add("--stage", default="", help="default: the last finished")
  add("--system", default="", help="a system message")
  add("--dtype", choices=tuple(DTYPES), help="default: config.json's")
  add(
    "--count",
    choices=("hf", "vllm"),
    help="audio tokens as the published code counts them, or its server",
  )
  add("--temperature", type=float, help="default: the release's; 0 is greedy")
  add("--top_p", type=float, help="default: the release's")
  add("--top_k", type=int, help="default: the release's")
  add("--repetition_penalty", type=float, help="default: the release's")
  add("--max_new", type=int, help="most new tokens")
  add("--seed", type=int, default=0, help="of the samples")
  return parser


def _checked(args) -> list[str]:
  """The options, and no flag out of its range."""
  options = [o.strip() for o in args.options.split(",")] if args.options else []
  if options and (len(set(options)) < max(2, len(options)) or "" in options):
    raise ValueError("--options: name two or more, each once, such as a,b,c")
  if not 0 <= args.seed < 2**32:
    raise ValueError(f"--seed: give 0 to {2**32 - 1}")
  given = {n: getattr(args, n) for n in _DRAWN if getattr(args, n) is not None}
  families.within(families.Sampling(**given), "--")
  if os.path.isfile(args.question):
    raise ValueError(f"{args.question}: a file where the question should be")
  return options


def _run(args) -> None:
  clock = time.monotonic()
  options = _checked(args)
  # Clips first: they are read in a moment, and a large model's weights last.
  most = answering.OWN_SECONDS if run_of(args) else answering.MAX_SECONDS
  waves = answering.read(args.clips, max_seconds=most)
  found = listener_of(args)
  printer = Printer()
  quiet = lambda kind, text: None
  answer = ask(
    found,
    waves,
    args.question,
    options,
    show=quiet if args.json else printer,
    direct=args.direct,
    system=args.system,
    plain=args.plain,
    seed=args.seed,
  )
  answer["seconds"] = round(time.monotonic() - clock, 3)
  if args.json:
    print(json.dumps(answer))
  else:
    printer.finish(answer)


def main(argv: list[str] | None = None) -> int:
  """Answers one question; returns the exit status."""
  args = _parser().parse_intermixed_args(argv)
  command.hush()
  try:
    _run(args)
  except Exception as error:
    said = command.exhausted(error)
    if said:
      said = f"{args.workdir or args.checkpoint}: {said}; {FIX}"
    said = said or command.of_store(error)
    if not (said or isinstance(error, ValueError | OSError)):
      raise
    _warn(said or str(error))
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
