"""Checks and prepares data of one's own, before anything trains on it.

  python -m experiments.prepare check MANIFEST [--max_seconds=20]
  python -m experiments.prepare shard MANIFEST --out=DIR [--workers=8] \\
      [--decoder=tensorflow-io]
  python -m experiments.prepare labels --csv=FILE --audio_column=file \\
      --label_column=class_name --split_column=fold --test_splits=3 \\
      --question="What makes this sound?" --out=out/esc10/manifest.jsonl

Bad input is one line on stderr and a non-zero exit; a result appears whole or
not at all.
"""

import argparse
import collections
import contextlib
import hashlib
import math
import os
import pathlib
import sys

import rich.box
import rich.console
import rich.progress
import rich.table
from etils import epath

from configs import common
from experiments import command, progress
from mgrd_jax.audio import tfio
from mgrd_jax.data import labels as labelled
from mgrd_jax.data import schema, shards, sources, splits
from mgrd_jax.mgrd import filters

# Training leaves out the rows of longer clips.
_MAX_SECONDS = common.base("tiny").data.max_seconds
# What `make tfio` makes.
TFIO_HOME = pathlib.Path(__file__).parents[1] / ".venv-tfio"
# name → (stack to close it with) → a decoder for one worker.
DECODERS = {
  "soundfile": lambda opened: None,
  "tensorflow-io": lambda opened: opened.enter_context(
    tfio.Decoder(TFIO_HOME)
  ),
}


class InputError(ValueError):
  """Something the user can mend; the message is one line."""


def check(args: argparse.Namespace) -> int:
  """reads every row and decodes every clip; fails if any row is refused"""
  manifest = epath.Path(args.manifest)
  store = sources.ClipStore(manifest.parent, max_seconds=args.max_seconds)
  good, refusals = [], []
  for line, example, refused in _track(schema.scan(manifest), "checking"):
    if example is not None:
      refused = _unreadable(store, line, example)
      good += [] if refused else [example]
    refusals += refused
  if not good and not refusals:
    raise InputError(f"{manifest}: no rows in this manifest")
  doubts = splits.doubts(good) + filters.doubts(good) if good else []
  _report(len(good), refusals, doubts)
  return 1 if refusals else 0


def shard(args: argparse.Namespace) -> int:
  """copies a manifest's good rows with their clips into ArrayRecord shards"""
  manifest, out = epath.Path(args.manifest), epath.Path(args.out)
  rows = list(schema.scan(manifest, check_files=False))
  refusals = [r for _, _, refused in rows for r in refused]
  with (
    contextlib.ExitStack() as opened,
    progress.bar("shards", every=30) as update,
  ):
    made = shards.write(
      [example for _, example, _ in rows if example is not None],
      manifest.parent,
      out,
      inputs=_inputs(manifest, args),
      size=args.examples_per_shard,
      workers=args.workers,
      store=lambda: sources.ClipStore(
        manifest.parent,
        max_seconds=args.max_seconds,
        decode=DECODERS[args.decoder](opened),
      ),
      progress=lambda p: update(
        p.shards, p.total, f"{p.clips} clips, {p.refused} refused"
      ),
    )
  for line, example, _ in rows:
    if example is not None:
      refs = dict.fromkeys(r for r in example.audio if r in made.refused)
      refusals += _refusals(line, example, [made.refused[r] for r in refs])
  _report(len(made.examples), refusals)
  if not made.examples:
    raise InputError(f"{manifest}: no usable rows, nothing written")
  if made.found:
    print(f"{out}: already there, from the same manifest and clips")
  else:
    print(
      f"wrote {out / shards.MANIFEST}: {made.shards} shards, "
      f"{made.shards - made.made} of them there before"
    )
  return 0


def labels(args: argparse.Namespace) -> int:
  """turns a table of labelled clips into multiple-choice questions"""
  out = pathlib.Path(args.out)
  test_splits = args.test_splits and args.test_splits.split(",")
  examples = labelled.examples(
    args.csv,
    manifest=out,
    audio_column=args.audio_column,
    label_column=args.label_column,
    question=args.question,
    split_column=args.split_column,
    test_splits=test_splits and [s.strip() for s in test_splits],
    options=args.options,
    seed=args.seed,
  )
  _write_once(out, examples, args.overwrite)
  count = collections.Counter(e.split for e in examples)
  n_options = len(examples[0].options)
  print(
    f"wrote {out}: {len(examples)} questions "
    f"({', '.join(f'{n} {s}' for s, n in sorted(count.items()))}), "
    f"{len({e.answer for e in examples})} labels, {n_options} options each, "
    f"chance {1 / n_options:.3f}"
  )
  for doubt in splits.doubts(examples):
    print(f"warning: {doubt}")
  return 0


def _track(rows, verb: str):
  console = rich.console.Console(stderr=True)
  return rich.progress.track(
    list(rows),
    verb,
    console=console,
    transient=True,
    disable=not console.is_terminal,
  )


def _unreadable(store, line, example) -> list[schema.Refusal]:
  return _refusals(line, example, sources.check_clips(store, example))


def _refusals(line, example, problems) -> list[schema.Refusal]:
  refusals = []
  for p in problems:
    fix = p.fix
    if p.reason == "too long":
      fix = (
        f"{fix.removesuffix(': cut it')}: cut it, training leaves out clips "
        f"over {_MAX_SECONDS:g} s"
      )
    refusals.append(schema.Refusal(line, example.id, p.field, p.reason, fix))
  return refusals


def _report(good: int, refusals: list[schema.Refusal], doubts=()) -> None:
  """A table of reasons, then one line for each refused row's problem."""
  lines_of_reason = collections.defaultdict(set)
  for refusal in refusals:
    lines_of_reason[refusal.reason].add(refusal.line)
  table = rich.table.Table("reason", "rows", box=rich.box.SIMPLE)
  table.add_row("accepted", str(good))
  for reason, lines in sorted(
    lines_of_reason.items(), key=lambda item: (-len(item[1]), item[0])
  ):
    table.add_row(reason, str(len(lines)))
  for doubt in doubts:
    table.add_row(f"warning: {doubt.reason}", str(doubt.rows or ""))
  rich.console.Console(markup=False, highlight=False).print(table)
  for refusal in sorted(refusals, key=lambda r: r.line):
    print(f"refused: {refusal}")
  for doubt in doubts:
    print(f"warning: {doubt}")
  print(f"{good} rows accepted, {len({r.line for r in refusals})} refused")


def _inputs(manifest, args) -> str:
  """What shards are made from, but for the clips: rows and flags."""
  flags = (args.examples_per_shard, args.max_seconds, args.decoder)
  digest = hashlib.sha256(manifest.read_bytes())
  digest.update(repr(flags).encode())
  return digest.hexdigest()


def _write_once(out: pathlib.Path, examples, overwrite: bool) -> None:
  if out.is_dir():
    raise InputError(f"{out}: a folder; name a file such as manifest.jsonl")
  if out.exists() and not overwrite:
    if schema.read_manifest(out, check_files=False) != (examples, []):
      raise InputError(
        f"{out}: already there with other content; add --overwrite to replace"
      )
  out.parent.mkdir(parents=True, exist_ok=True)
  schema.write_manifest(out, examples)


def _seconds(text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not (math.isfinite(value) and value > 0):
    raise argparse.ArgumentTypeError(f"{text!r}: write seconds above 0")
  return value


def _count(text: str) -> int:
  if not (text.isdecimal() and int(text)):
    raise argparse.ArgumentTypeError(f"{text!r}: write 1 or more")
  return int(text)


def _parser() -> command.Parser:
  parser = command.Parser(prog="prepare", description=__doc__)
  commands = parser.add_subparsers(dest="command", required=True)
  for run in (check, shard, labels):
    sub = commands.add_parser(run.__name__, help=run.__doc__)
    sub.set_defaults(run=run)
    if run is labels:
      _add_label_flags(sub)
    else:
      sub.add_argument("manifest", help="a jsonl manifest")
      sub.add_argument(
        "--max_seconds",
        type=_seconds,
        default=_MAX_SECONDS,
        help="refuse longer clips (%(default)g, as training does)",
      )
    if run is shard:
      _add_shard_flags(sub)
  return parser


def _add_shard_flags(sub: command.Parser) -> None:
  sub.add_argument(
    "--out", required=True, help="a new folder, or the one to go on with"
  )
  sub.add_argument("--examples_per_shard", type=_count, default=256)
  sub.add_argument(
    "--workers",
    type=_count,
    default=os.cpu_count(),
    help="shards made at once (%(default)s)",
  )
  sub.add_argument(
    "--decoder",
    choices=sorted(DECODERS),
    default="soundfile",
    help="tensorflow-io also decodes AAC, and reads gs:// itself; make tfio",
  )


def _add_label_flags(sub: command.Parser) -> None:
  sub.add_argument("--csv", required=True, help="a table with a header")
  sub.add_argument("--audio_column", required=True)
  sub.add_argument("--label_column", required=True)
  sub.add_argument("--split_column")
  sub.add_argument(
    "--test_splits",
    help="values of the split column that make the test split, such as 3,4; "
    "without it the column's values are the splits",
  )
  sub.add_argument("--question", required=True)
  sub.add_argument("--out", required=True, help="the manifest to write")
  sub.add_argument(
    "--options",
    help="options a question, or all "
    f"(all up to {labelled.ALL_OPTIONS_UP_TO} labels, else 4)",
  )
  sub.add_argument("--seed", type=int, default=0)
  sub.add_argument(
    "--overwrite", action="store_true", help="replace another manifest"
  )


def main(argv: list[str] | None = None) -> int:
  """Runs one command; returns the exit status."""
  args = _parser().parse_args(argv)
  known = (
    InputError,
    labelled.TableError,
    schema.ManifestError,
    shards.FolderError,
    OSError,
  )
  command.hush()
  try:
    return args.run(args)
  except Exception as error:
    said = command.of_store(error)
    if not (said or isinstance(error, known)):
      raise
    print(f"prepare {args.command}: {said or error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
  sys.exit(main())
