"""Released checkpoints in, out, and compared with what others computed.

  python -m experiments.convert check  --checkpoint=DIR
  python -m experiments.convert import --checkpoint=DIR --out=DIR \\
      [--dtype=bfloat16|float32]
  python -m experiments.convert export --params=DIR --like=DIR --out=DIR
  python -m experiments.convert verify --checkpoint=DIR --reference=REF.npz \\
      [--atol=1e-4] [--dtype=float32|bfloat16] [--count=hf|vllm]
  python -m experiments.convert diff --checkpoint=DIR --other=DIR
  python -m experiments.convert precision --checkpoint=DIR [--clip=FILE] \\
      [--count=hf|vllm]

A checkpoint is a Hugging Face folder: config.json and safetensors, in one
file or many.  Bad input is lines on stderr and a non-zero exit; a result
appears whole or not at all.
"""

import argparse
import collections
import json
import math
import pathlib
import sys

import jax
import jax.numpy as jnp
import rich.box
import rich.console
import rich.table
from etils import epath

from experiments import command, files
from experiments import precision as precision_lib
from experiments import verify as verify_lib
from mgrd_jax.audio import features, io
from mgrd_jax.models import audio_lm, convert, released, shards
from mgrd_jax.train import checkpoint

META = "import.json"
DTYPES = ("bfloat16", "float32")
# What there is to do where memory runs out.
FIX = collections.defaultdict(
  lambda: "give a machine of more memory",
  {
    "import": "give --dtype=bfloat16, or a machine of more memory",
    "verify": "give more devices, shorter rows, or --dtype=bfloat16",
    "precision": "give more devices, or a shorter clip",
  },
)


class InputError(ValueError):
  """Something the user can mend; the message is one line."""


def check(args: argparse.Namespace) -> int:
  """compares a checkpoint's tensors with its config.json; reads no weights"""
  config = released.read(args.checkpoint)
  source = convert.match(args.checkpoint, config)
  lines = collections.defaultdict(list)
  for row in source.written:
    lines[row.part] += [source.tensors[name] for name in row.names]
  table = rich.table.Table(
    "part", "tensors", "parameters", "bytes", "dtype", box=rich.box.SIMPLE
  )
  for part, tensors in (*lines.items(), ("all", source.tensors.values())):
    table.add_row(
      part,
      str(len(tensors)),
      f"{sum(math.prod(t.shape) for t in tensors):,}",
      f"{sum(t.stop - t.start for t in tensors):,}",
      ", ".join(sorted({t.dtype for t in tensors})),
    )
  rich.console.Console(markup=False, highlight=False).print(table)
  print(f"{args.checkpoint}: a whole {config.family} checkpoint")
  return 0


def import_(args: argparse.Namespace) -> int:
  """writes a checkpoint of ours: parameters, config.json, tokenizer"""
  folder = pathlib.Path(args.checkpoint)
  config = released.read(folder)
  out = convert.check_new(args.out)
  rest = shards.rest(folder, out)
  need = _bytes(folder, config, args.dtype) + shards.size(rest)
  convert.check_room(out, need)
  params = _on_host(lambda: convert.load(folder, config, dtype=args.dtype))
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  kinds = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(params)})
  meta = {
    "made_by": "experiments.convert import",
    "checkpoint": str(folder.absolute()),
    "family": config.family,
    "dtype": ", ".join(kinds),
    "parameters": count,
  }
  with files.new_folder(out) as part:
    checkpoint.save(part / "params", params)
    shards.copy(rest, pathlib.Path(part))
    (part / META).write_text(json.dumps(meta, indent=1) + "\n")
  print(f"wrote {out}: {count:,} parameters, {meta['dtype']}")
  return 0


def _bytes(folder, config: audio_lm.Config, dtype: str | None) -> int:
  """Of a checkpoint's parameters in a dtype, or in the files' own."""
  tensors = convert.match(folder, config).tensors.values()
  if dtype is None:
    return sum(t.stop - t.start for t in tensors)
  return jnp.dtype(dtype).itemsize * sum(math.prod(t.shape) for t in tensors)


def export(args: argparse.Namespace) -> int:
  """writes parameters of ours as a checkpoint like the one they came from"""
  config = released.read(args.like)
  # Before the parameters are read, which takes minutes of a large model.
  convert.ready(args.out, config, args.like)
  folder = epath.Path(args.params)
  if (folder / "params").is_dir():
    folder = folder / "params"
  params = _on_host(lambda: checkpoint.restore(folder))
  convert.save(params, config, args.out, like=args.like)
  print(f"wrote {args.out}: names, dtypes and shards of {args.like}")
  return 0


def verify(args: argparse.Namespace) -> int:
  """compares the loaded model with logits that somebody computed elsewhere"""
  if not (math.isfinite(args.atol) and args.atol >= 0):
    raise InputError("--atol: give 0 or more")
  config = _config(args)
  reference = verify_lib.read(args.reference, config)
  params = verify_lib.parameters(args.checkpoint, config, args.dtype)
  found = verify_lib.compare(params, config, reference)
  table = rich.table.Table(
    "stage", "row", "values", "largest difference", "where", "note",
    box=rich.box.SIMPLE,
  )  # fmt: skip
  for d in found:
    table.add_row(
      d.stage, str(d.row), f"{d.values:,}", f"{d.largest:.3g}", d.where, d.note
    )
  console = rich.console.Console(markup=False, highlight=False, width=100)
  console.print(table)
  worst = max(found, key=lambda d: d.largest)
  within = worst.largest <= args.atol
  print(
    f"{args.reference}: largest difference {worst.largest:.3g} "
    f"({worst.stage}, row {worst.row}) is "
    f"{'within' if within else 'past'} {args.atol:g}, in {args.dtype}"
  )
  return 0 if within else 1


def diff(args: argparse.Namespace) -> int:
  """says whether two checkpoints hold one audio encoder, bit for bit"""
  lines = convert.encoder_differences(
    args.checkpoint,
    released.read(args.checkpoint),
    args.other,
    released.read(args.other),
  )
  for line in lines:
    print(line)
  verdict = f"{len(lines)} tensors differ" if lines else "equal, bit for bit"
  print(f"encoders of {args.checkpoint} and {args.other}: {verdict}")
  return 1 if lines else 0


def precision(args: argparse.Namespace) -> int:
  """reports how far the logits in bfloat16 are from those in float32"""
  config = _config(args)
  wave_W = precision_lib.chirp()
  if args.clip:
    wave_W, _ = io.read(args.clip, max_seconds=features.CHUNK / features.RATE)
  found = precision_lib.compare(args.checkpoint, config, wave_W)
  print(
    f"{args.checkpoint}: logits in bfloat16 differ from float32 by at most "
    f"{found['largest']:.3g} (mean {found['mean']:.3g}; logits reach "
    f"{found['largest_logit']:.3g}); the likeliest id is the same at "
    f"{found['same_top']:.1%} of the positions, and led by at most "
    f"{found['margin']:.3g} where not"
  )
  return 0


def _config(args: argparse.Namespace) -> audio_lm.Config:
  """The checkpoint's config, counted as --count says."""
  config = released.read(args.checkpoint)
  if args.count != "vllm":
    return config
  try:
    return released.as_served(config)
  except ValueError as error:
    raise InputError(f"{args.checkpoint}: {error}") from error


def _on_host(make):
  """Arrays in this machine's memory, whatever accelerators it has."""
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    return make()


COMMANDS = {
  "check": check,
  "import": import_,
  "export": export,
  "verify": verify,
  "diff": diff,
  "precision": precision,
}


def _parser() -> command.Parser:
  parser = command.Parser(prog="convert", description=__doc__)
  commands = parser.add_subparsers(dest="command", required=True)
  subs = {}
  for name, run in COMMANDS.items():
    sub = commands.add_parser(name, help=run.__doc__)
    sub.set_defaults(run=run)
    subs[name] = sub
    if name != "export":
      sub.add_argument("--checkpoint", required=True, help="its folder")
  for name in ("import", "export"):
    subs[name].add_argument("--out", required=True, help="a new folder")
  subs["import"].add_argument(
    "--dtype", choices=DTYPES, help="of the parameters (the files' own)"
  )
  subs["export"].add_argument(
    "--params", required=True, help="of an import, or of a stage"
  )
  subs["export"].add_argument(
    "--like", required=True, help="the checkpoint that the model came from"
  )
  subs["verify"].add_argument("--reference", required=True, help="an .npz")
  subs["verify"].add_argument(
    "--atol", type=float, default=1e-4, help="most difference (%(default)g)"
  )
  subs["verify"].add_argument(
    "--dtype", choices=DTYPES, default="float32", help="(%(default)s)"
  )
  for name in ("verify", "precision"):
    subs[name].add_argument(
      "--count",
      choices=("hf", "vllm"),
      help="audio tokens as the published code counts them, or its server",
    )
  subs["diff"].add_argument("--other", required=True, help="another folder")
  subs["precision"].add_argument(
    "--clip", default="", help="what is heard, of at most 25 s (a chirp)"
  )
  return parser


def main(argv: list[str] | None = None) -> int:
  """Runs one command; returns the exit status."""
  args = _parser().parse_args(argv)
  try:
    return args.run(args)
  except (ValueError, OSError, MemoryError, RuntimeError) as error:
    said = command.exhausted(error)
    if said:
      folder = args.params if args.command == "export" else args.checkpoint
      said = f"{folder}: {said}; {FIX[args.command]}"
    elif not isinstance(error, ValueError | OSError):
      raise
    for line in (said or str(error)).splitlines():
      print(f"convert {args.command}: {line}", file=sys.stderr)
    return 1


if __name__ == "__main__":
  sys.exit(main())
