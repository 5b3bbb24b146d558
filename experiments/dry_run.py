"""What a stage would do, without doing it: nothing is trained or written.

    config -> resolved fields, examples, token budget, parameters, memory,
              and a few rows of a batch as text
"""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Iterator

import jax

from experiments import assembly, evaluate, pipeline
from mgrd_jax.audio import features, io
from mgrd_jax.data import (
  lexicon,
  schema,
  sources,
  synthetic,
  text_tasks,
  transforms,
)
from mgrd_jax.models import audio_lm
from mgrd_jax.text import chat
from mgrd_jax.text import tokenizer as tokenizer_lib

PLANNED_SECONDS = 3.0  # of a clip that is not rendered yet
SAMPLED = 200  # rows whose lengths stand for all


@dataclasses.dataclass(frozen=True)
class Plan:
  """The data of a run as far as it can be told without building it."""

  examples: list[schema.Example]
  clips: int
  seconds: float  # of all clips
  made: bool  # the built-in set is in the cache
  stores: tuple[sources.ClipStore, ...]

  def count(self, ref: str) -> int:
    """Audio tokens of a clip; of a planned one, those of 3 s."""
    index, inner = ref.split(":", 1)
    if index == "0" and not self.made:
      return features.token_count(int(PLANNED_SECONDS * features.RATE))
    wave_W = self.stores[int(index)].wave(inner)
    return features.token_count(min(len(wave_W), features.MAX_SAMPLES))


@dataclasses.dataclass(frozen=True)
class Work:
  """One kind of batch of a stage: rows x columns, so many times."""

  name: str
  rows: int
  columns: int
  times: int
  trains: bool = False

  @property
  def tokens(self) -> int:
    return self.rows * self.columns * self.times


def flat(config: dict, prefix: str = "") -> Iterator[str]:
  """"a.b = value" of every field, sorted."""
  for name in sorted(config):
    value = config[name]
    if isinstance(value, dict) and value:
      yield from flat(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name} = {value!r}"


def plan(data, seed: int) -> Plan:
  """Reads the manifests there are; plans the built-in set if it is not made.

  Raises:
    ManifestError: a manifest cannot be read at all.
  """
  sizes = synthetic.Sizes(**data.sizes.to_dict())
  key = synthetic.cache_key(sizes, seed, data.labelled)
  folder = pathlib.Path(data.cache) / key
  made = (folder / "manifest.jsonl").exists()
  if made:
    built_in, _ = schema.read_manifest(
      folder / "manifest.jsonl", check_files=False
    )
    # A shard holds 16-bit samples, and next to nothing beside them.
    size = (folder / "clips.arrayrecord").stat().st_size
    seconds = size / (2 * io.RATE)
  else:
    world = lexicon.draw_world(seed)
    clips = synthetic.plan(sizes, seed, world)
    refs = [str(i) for i in range(len(clips))]
    # Only short clips are compared, and a planned one passes for short.
    short = [min(PLANNED_SECONDS, synthetic.COMPARED_SECONDS)] * len(clips)
    built_in = list(
      synthetic.questions(
        clips, refs, short, world, seed=seed, labelled=data.labelled
      )
    )
    for source in text_tasks.SOURCES:
      told = text_tasks.build(
        world, source, sizes.text, seed=seed, hint_share=sizes.hint_share
      )
      heard = told[: sizes.background]
      built_in += told
      built_in += synthetic.with_background(heard, clips, refs, short, seed)
    seconds = PLANNED_SECONDS * len(clips)
  found, roots = _placed(built_in, 0), [folder]
  if data.manifest:
    path = pathlib.Path(data.manifest)
    rows, refusals = schema.read_manifest(path)
    print(f"{path}: {len(rows)} rows, {len(refusals)} refused")
    own = [dataclasses.replace(r, source="own") for r in _placed(rows, 1)]
    found = [e for e in found if e.split != "test"] + own
    roots.append(path.parent)
  refs = {ref for e in found for ref in e.audio}
  stores = tuple(map(sources.ClipStore, roots))
  return Plan(found, len(refs), seconds, made, stores)


def _placed(rows, index: int) -> list[schema.Example]:
  return [
    dataclasses.replace(e, audio=tuple(f"{index}:{r}" for r in e.audio))
    for e in rows
  ]


def tokenizer_of(workdir, examples) -> tokenizer_lib.HFTokenizer:
  """The run's tokenizer, or the one that it would build."""
  path = pathlib.Path(workdir) / "tokenizer.json"
  if path.exists():
    return tokenizer_lib.load(path)
  return assembly.build_tokenizer(examples)


def row(tokenizer, planned: Plan, example, *, supervised=True) -> chat.Row:
  """An example as a tokenised row, with its response or without."""
  counts = [planned.count(ref) for ref in example.audio]
  write = chat.prompt
  if supervised:
    write = functools.partial(
      chat.supervised,
      given=example.meta.get("given", ""),
      reasoning=example.reasoning,
      answer=example.answer,
    )
  return write(
    tokenizer,
    example.question,
    example.options,
    counts=counts,
    hint=chat.HINT if example.meta.get("hint") else "",
  )


def columns(tokenizer, planned, examples, *, supervised=True) -> int:
  """Columns that hold the longest of some of the examples."""
  step = max(1, len(examples) // SAMPLED)
  rows = [
    transforms.Item(row(tokenizer, planned, e, supervised=supervised))
    for e in examples[::step]
  ]
  return transforms.shape_of(rows, width=0).time if rows else 0


def shown(tokenizer, one: chat.Row) -> str:
  """A row as text: [where the loss is], and placeholders counted."""
  patch = tokenizer.id("<audio_patch>")
  out, at = [], 0
  while at < len(one.tokens):
    end = at + 1
    is_patch, loss = one.tokens[at] == patch, one.loss[at]
    while end < len(one.tokens) and (
      (one.tokens[end] == patch) == is_patch and one.loss[end] == loss
    ):
      end += 1
    text = tokenizer.decode(one.tokens[at:end])
    if is_patch:
      text = f"<audio_patch>×{end - at}"
    out.append(f"[{text}]" if loss else text)
    at = end
  return "".join(out).replace("\n", "\\n")


def asked(config, planned: Plan) -> list[schema.Example]:
  """What a stage samples answers to: questions of the pool, or of text."""
  train = [e for e in planned.examples if e.split == "train"]
  if config.get("modality") == "text":
    told = [e for e in train if not e.audio and e.source in config.sources]
    return told[: config.questions]
  pool = [e for e in planned.examples if e.split == "pool" and e.audio]
  return [e for e in train if e.source == "own"] + pool[: config.questions]


def work(config, planned: Plan, tokenizer) -> list[Work]:
  """The batches of one stage, told by the fields of its config."""
  longest = functools.partial(columns, tokenizer, planned)
  if "batch_frames" in config:
    # The encoder learns on mel frames: there is no token yet.
    frames = features.mel_frames(round(PLANNED_SECONDS * features.RATE))
    rows = max(8, round(config.batch_frames / frames))
    return [Work("mel frames", rows, frames, config.steps, True)]
  found = []
  if "questions" in config:
    examples = asked(config, planned)
    long = longest(examples, supervised=False) + config.max_new
    drawn = config.get("select_samples", config.samples)
    found.append(Work("questions sampled", len(examples), long, drawn))
    if "ppo" in config:
      rows = config.prompts * config.samples
      found.append(Work("rollouts", rows, long, config.steps, True))
  if "audio_rows" in config:
    train = [e for e in planned.examples if e.split == "train"]
    train = [e for e in train if config.weights.get(e.source, 0) > 0]
    for name, rows, some in (
      ("audio", config.audio_rows, [e for e in train if len(e.audio) == 1]),
      ("pairs", config.pair_rows, [e for e in train if len(e.audio) > 1]),
      ("text", config.text_rows, [e for e in train if not e.audio]),
    ):
      if some:
        found.append(Work(name, rows, longest(some), config.steps, True))
  if not {"questions", "audio_rows"} & set(config):
    test = [e for e in planned.examples if e.split == "test"]
    long = longest(test, supervised=False) + config.max_new
    modes = len(evaluate.MODES)
    found.append(Work("test questions in each mode", len(test), long, modes))
  return found


def counts(model: audio_lm.Config) -> dict[str, int]:
  """Parameters of each part of the model, without making them."""
  shapes = jax.eval_shape(
    functools.partial(audio_lm.init, config=model), jax.random.key(0)
  )
  return {
    name: sum(leaf.size for leaf in jax.tree.leaves(part))
    for name, part in shapes.items()
  }


def memory(config, works, sizes, model) -> tuple[int, int]:
  """(bytes of what is trained, bytes of the activations); see `show`."""
  trains = [w for w in works if w.trains]
  if not trains:
    return 0, 0
  encoder = "batch_frames" in config
  part, vocab = model.decoder, model.decoder.vocab
  trained = sizes["adapter"] + sizes["decoder"]
  if encoder:
    part, vocab, trained = model.encoder, 0, sizes["encoder"]
  copies = 2 if "ppo" in config else 1
  alive = 0
  for w in trains:
    # The encoder's layers run at half the rate of its mel frames.
    time = w.columns // 2 if encoder else w.columns
    layer = 8 * part.width + 3 * part.ffn + 2 * part.heads * time
    alive += 4 * w.rows * time * (part.layers * layer + 2 * vocab)
  return 16 * trained * copies, alive


def stages(config) -> list[tuple[str, object, int]]:
  """(name, config, times) of a script's own stage, or of the pipeline's."""
  if "cold_start" not in config:
    return [("stage", config, 1)]
  planned = pipeline.plan(config)
  found = []
  for number, (name, _, block) in enumerate(planned):
    last = number + 1 == len(planned)
    own = pipeline.stage_config(
      config, block, number=number, init="", last=last
    )
    found.append((name, own, 1))
  found.append(("control without grounding filter", config.mgrd, 1))
  # After each stage but the encoder's, and after the control.
  return found + [("evaluate", config.evaluate, len(planned))]


def _show_data(planned: Plan) -> None:
  state = "in the cache" if planned.made else "planned, not made yet"
  print(f"\n# examples ({state}; {planned.clips} clips)")
  table: dict[str, collections.Counter] = {}
  for e in planned.examples:
    table.setdefault(e.split, collections.Counter())[e.source] += 1
  for split, by in table.items():
    parts = ", ".join(f"{s} {n}" for s, n in sorted(by.items()))
    print(f"{split}: {by.total()} ({parts})")


def _show_batch(tokenizer, planned: Plan, config) -> None:
  config = config.get("cold_start", config)
  train = [e for e in planned.examples if e.split == "train"]
  if "batch_frames" in config:
    print("\n# of a first batch (what each clip teaches)")
    clips = [
      e for e in train if len(e.audio) == 1 and not e.meta.get("background")
    ]
    for e in {e.meta.get("family", "own"): e for e in clips}.values():
      said = e.transcript or ""
      print(f"{e.audio[0]}: {e.meta.get('facts', e.answer)} words: {said!r}")
    return
  supervised = "audio_rows" in config
  mark = "loss in [brackets]" if supervised else "prompts"
  print(f"\n# of a first batch ({mark})")
  examples = [e for e in planned.examples if e.split == "test"]
  if supervised:
    examples = train
  elif "questions" in config:
    examples = asked(config, planned)
  first: dict[str, schema.Example] = {}
  for e in examples:
    first.setdefault(e.source, e)
  for source, e in first.items():
    one = row(tokenizer, planned, e, supervised=supervised)
    print(f"{source}: {shown(tokenizer, one)}")


def _show_budget(config, planned: Plan, tokenizer, model, sizes):
  """Prints each stage's batches; returns the memory of the largest stage."""
  print("\n# budget (rows x columns x times = tokens; columns: the longest")
  print(f"# of about {SAMPLED} rows)")
  total, most = 0, (0, 0)
  for name, own, times in stages(config):
    works = work(own, planned, tokenizer)
    most = max(most, memory(own, works, sizes, model), key=sum)
    for w in works:
      w = dataclasses.replace(w, times=w.times * times)
      total += w.tokens
      print(
        f"{name}, {w.name}: {w.rows} x {w.columns} x {w.times} = {w.tokens:,}"
      )
  print(f"in all: {total:,}")
  return most


def show(config, workdir) -> None:
  """Prints config, examples, budget, parameters, memory and some rows.

  Memory is a rough sum for the largest stage (E width, F ffn, N heads):

    16 B x trained parameters (params, grads, Adam; twice with a critic)
    4 B x rows x columns x (layers x (8 E + 3 F + 2 N x columns) + 2 V)

  Raises:
    ManifestError, AudioError: the user's manifest or a clip cannot be read.
  """
  print("# config")
  print("\n".join(flat(config.to_dict())))
  planned = plan(config.data, config.seed)
  _show_data(planned)
  tokenizer = tokenizer_of(workdir, planned.examples)
  model = audio_lm.config_for(config.model, vocab=tokenizer.vocab_size)
  sizes = counts(model)
  state, alive = _show_budget(config, planned, tokenizer, model, sizes)
  print("\n# parameters")
  for name, size in sizes.items():
    print(f"{name}: {size:,}")
  print(f"in all: {sum(sizes.values()):,} (vocabulary {tokenizer.vocab_size})")
  frames = planned.seconds * features.RATE / features.HOP
  clips = frames * (features.MELS * 2 + model.encoder.width)
  print("\n# memory of the largest stage, estimated, MiB")
  for what, size in (
    ("params + grads + moments (16 B each, twice with a critic)", state),
    ("activations (4 B x rows x columns x (layers x (8 width + 3 ffn + "
     "2 heads x columns) + 2 vocabulary))", alive),
    ("clips (a second: log-mel 100 x 128 x 2 B, states 25 x width x 4 B)",
     clips),
  ):  # fmt: skip
    print(f"{what}: {size / 2**20:,.0f}")
  _show_batch(tokenizer, planned, config)
