"""What every stage script needs, put together once: the only glue.

    config -> Context: examples, tokenizer, clips, model sizes, programs
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from etils import epath

from experiments import files, own_data, placement, provenance
from experiments.progress import bar
from mgrd_jax import paths, processes
from mgrd_jax.audio import features, measure
from mgrd_jax.data import clips as clips_lib
from mgrd_jax.data import schema, sources, synthetic, transforms, workers
from mgrd_jax.data.schema import Example
from mgrd_jax.models import audio_lm
from mgrd_jax.text import chat
from mgrd_jax.text import tokenizer as tokenizer_lib


def fingerprint(config) -> str:
  """Short hash of a resolved config."""
  text = json.dumps(config.to_dict(), sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclasses.dataclass
class Context:
  """Data and sizes shared by the stages of one run.

  `mesh` is None on one device; `clips` holds log-mels; `enc` the frozen
  encoder's states, filled by `encode_clips`; `facts` what signal processing
  measured.
  """

  config: object
  mesh: object
  tokenizer: tokenizer_lib.HFTokenizer
  model: audio_lm.Config
  examples: list[Example]
  clips: dict
  enc: dict
  facts: dict
  skipped: list
  items: dict = dataclasses.field(default_factory=dict)

  def split(self, *names: str) -> list[Example]:
    return [e for e in self.examples if e.split in names]

  @functools.cached_property
  def own_response(self) -> int:
    """Tokens that the user's rows need for a response; 0 without any."""
    return own_data.longest_response(self.tokenizer, self.examples)


def load(config, workdir) -> Context:
  """Builds or finds the data, the tokenizer and the log-mels.

  Raises:
    ValueError: config.init belongs to a run of another seed or model,
      `workdir` holds results from other data, or config.mesh is not of the
      devices or does not divide the model.
  """
  if config.init:
    same_run("init", config.init, config, ("seed", "model"))
  mesh = placement.mesh_of(config.mesh)
  examples, stores, skipped = processes.in_turn(
    lambda: _examples(config.data, config.seed)
  )
  provenance.keep_data(workdir, provenance.of_data(examples, stores))
  refs = sorted({ref for e in examples for ref in e.audio})
  tokenizer = _tokenizer(config, workdir, examples)
  model = audio_lm.config_for(config.model, vocab=tokenizer.vocab_size)
  placement.check(mesh, model)
  with bar("log-mel") as update:
    clips = clips_lib.load(
      stores, refs, jax.jit(features.log_mel), progress=update
    )
  facts = processes.in_turn(
    lambda: _facts(config.data, examples, stores, clips)
  )
  context = Context(
    config, mesh, tokenizer, model, examples, clips, {}, facts, skipped
  )
  if config.data.manifest:
    # `ask` reads it, and knows no manifest.
    needed = {"max_new": context.own_response}
    files.write_json(epath.Path(workdir) / "own.json", needed)
  return context


def same_run(field: str, folder, config, names: Sequence[str]) -> None:
  """Refuses a checkpoint that was made with other values of some fields.

  A name such as "data.sizes" stands for all fields below it.

  The rules behind the questions are drawn from the seed, so a model of
  another seed would be asked about a world that it has never seen.  A folder
  of no run (no config.json above it) is taken as it is.
  """
  for home in paths.upwards(folder):
    if (home / "config.json").exists():
      break
  else:
    return
  made = files.read_json(home / "config.json")
  # As JSON too, which knows no tuples.
  now = json.loads(json.dumps(config.to_dict(), default=list))
  made, now = dict(fields(made)), dict(fields(now))
  for name in sorted(made.keys() | now.keys()):
    asked = any(f"{name}.".startswith(f"{n}.") for n in names)
    if asked and made.get(name) != now.get(name):
      raise ValueError(
        f"config.{field}={folder}: made with {name} {made.get(name)!r}, not "
        f"{now.get(name)!r}; give --config.{name} the same value"
      )


def fields(config: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
  """("a.b", value) of every field of a nested dict, sorted."""
  for name in sorted(config):
    value = config[name]
    if isinstance(value, dict) and value:
      yield from fields(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value


def build_tokenizer(examples) -> tokenizer_lib.HFTokenizer:
  """The built-in tokenizer over all that is not held out for the test."""
  texts = [
    f"{e.question} {' '.join(e.options)} {e.answer} {e.reasoning or ''} "
    f"{e.meta.get('given', '')} {e.transcript or ''}"
    for e in examples
    if e.split != "test"
  ]
  texts.append(f"human assistant system options: | {chat.HINT} {chat.LEAD_IN}")
  return tokenizer_lib.build(texts)


def _tokenizer(config, workdir, examples) -> tokenizer_lib.HFTokenizer:
  """The run's tokenizer: its own, that of config.init's run, or a new one."""
  path = epath.Path(workdir) / "tokenizer.json"
  if path.exists():
    return tokenizer_lib.load(path)
  homes = paths.upwards(config.init) if config.init else ()
  made = [h / path.name for h in homes if (h / path.name).exists()]
  tokenizer = tokenizer_lib.load(made[0]) if made else build_tokenizer(examples)
  if processes.writes():
    tokenizer.save(path)
  return tokenizer


class Stores:
  """Refs of several roots in one namespace: "root-index:ref".

  Root 0 is the built-in set's, root 1 that of the user's manifest.
  """

  def __init__(self, roots: Sequence[epath.Path], max_seconds: float):
    self._stores = [
      sources.ClipStore(r, max_seconds=max_seconds) for r in roots
    ]

  def paths(self, refs: Iterable[str]) -> dict[str, epath.Path]:
    """{"root-index:file": path} of every file that the refs lead to, sorted."""
    found = {}
    for ref in refs:
      index, inner = ref.split(":", 1)
      file, _ = schema.split_ref(inner)
      root = self._stores[int(index)].root
      found[f"{index}:{file}"] = paths.below(root, file)
    return dict(sorted(found.items()))

  def files(self, refs: Iterable[str]) -> list[tuple[str, int, int]]:
    """(path, bytes, time of change) of every file that the refs lead to."""
    found = self.paths(refs).values()
    return [(str(paths.absolute(p)), *paths.stamp(p)) for p in found]

  def wave(self, ref: str) -> np.ndarray:
    index, inner = ref.split(":", 1)
    return self._stores[int(index)].wave(inner)


def _examples(data, seed: int):
  """(examples, stores, skipped rows) of the built-in set and a manifest."""
  sizes = synthetic.Sizes(**data.sizes.to_dict())
  with bar("question set") as update:
    built_in = synthetic.build(
      data.cache,
      sizes,
      seed=seed,
      labelled=data.labelled,
      workers=data.workers,
      progress=update,
    )
  roots = [built_in.parent]
  if data.manifest:
    roots.append(epath.Path(data.manifest).parent)
  stores = Stores(roots, data.max_seconds)
  rows, refusals = schema.read_manifest(built_in)
  if refusals:
    raise ValueError(
      f"{built_in}: {refusals[0]}; remove {built_in.parent}, and the same "
      "command makes it again"
    )
  examples, skipped = placed(rows), []
  if data.manifest:
    own, skipped = own_data.read(data.manifest, stores)
    examples = own_data.joined(examples, own)
  if skipped:
    print(f"skipped {len(skipped)} rows; the first: {skipped[0]}")
  return examples, stores, skipped


def placed(rows: Sequence[Example]) -> list[Example]:
  """Built-in rows with their refs in the namespace of `Stores`."""
  return [
    dataclasses.replace(e, audio=tuple(f"0:{ref}" for ref in e.audio))
    for e in rows
  ]


def _measure_one(job):
  stores, ref = job
  return measure.facts(stores.wave(ref))


def _facts(data, examples, stores, clips) -> dict:
  """Measured facts of the clips that chains are checked on, cached."""
  wanted = sorted(
    {
      ref
      for e in examples
      if e.split in ("pool", "test") or e.meta.get("own")
      for ref in e.audio
    }
  )
  # Whatever the facts depend on: the clips' files, and how they are measured.
  code = pathlib.Path(measure.__file__).read_text()
  depends = [code, *wanted, *map(str, stores.files(wanted))]
  key = hashlib.sha256("\n".join(depends).encode()).hexdigest()[:18]
  path = epath.Path(data.cache) / f"facts-{key}.json"
  if path.exists():
    return files.read_json(path)
  facts = {}
  with bar("measuring") as update, workers.pool(data.workers) as pool:
    jobs = ((stores, ref) for ref in wanted)
    found = pool.map(_measure_one, jobs, chunksize=32)
    for ref, measured in zip(wanted, found, strict=True):
      facts[ref] = measured
      update(len(facts), len(wanted))
  for ref in wanted:
    silent = f"silent/{ref}"
    facts[silent] = measure.facts(np.zeros(clips[ref].samples, np.float32))
  paths.write(path, json.dumps(facts, default=float))
  return files.read_json(path)


def encode_clips(context: Context, encoder_params) -> None:
  """Fills `context.enc` with the frozen encoder's states, silence included."""
  mesh = context.mesh
  encode = placement.program(
    mesh, functools.partial(audio_lm.encode, config=context.model)
  )

  def states(mel_BRM, len_B):
    mels = placement.place(mesh, {"mel_BRM": mel_BRM, "len_B": len_B})
    found = encode(encoder_params, mels["mel_BRM"], mels["len_B"])
    return placement.fetch(found)

  tested = {r for e in context.split("test") for r in e.audio}
  quiet = np.float16((np.log10(1e-10) + 4) / 4)
  clips = dict(context.clips)
  for ref in tested:
    clip = clips[ref]
    mel_RM = np.full_like(clip.mel_RM, quiet)
    clips[f"silent/{ref}"] = clips_lib.Clip(mel_RM, clip.samples)
  with bar("encode") as update:
    context.enc.clear()
    context.items.clear()
    context.enc.update(
      clips_lib.encode(
        clips, states, batch=placement.filled(mesh, 32), progress=update
      )
    )


def _counts(context: Context, refs) -> tuple[int, ...]:
  return tuple(
    context.clips[ref.removeprefix("silent/")].tokens for ref in refs
  )


def prompt_item(
  context: Context,
  example: Example,
  *,
  refs: Sequence[str] | None = None,
  hint: bool = False,
  direct: bool = False,
) -> transforms.Item:
  """A prompt; `refs` may put other clips in place of the example's own."""
  refs = example.audio if refs is None else tuple(refs)
  row = chat.prompt(
    context.tokenizer,
    example.question,
    example.options,
    counts=_counts(context, refs),
    hint=chat.HINT if hint else "",
    direct=direct,
  )
  return transforms.Item(row, tuple(context.enc[r] for r in refs))


def supervised_item(context: Context, example: Example) -> transforms.Item:
  """An example with its response, for fine-tuning; made once a run."""
  key = (example.id, example.source, example.reasoning)
  if key not in context.items:
    context.items[key] = _supervised_item(context, example)
  return context.items[key]


def _supervised_item(context: Context, example: Example) -> transforms.Item:
  row = chat.supervised(
    context.tokenizer,
    example.question,
    example.options,
    counts=_counts(context, example.audio),
    hint=chat.HINT if example.meta.get("hint") else "",
    given=example.meta.get("given", ""),
    reasoning=example.reasoning,
    answer=example.answer,
  )
  return transforms.Item(row, tuple(context.enc[r] for r in example.audio))
