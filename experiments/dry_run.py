"""What a stage would do, without doing it: nothing is trained or written.

    config -> resolved fields, examples, token budget, parameters, memory,
              and the first batch as text
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath

from experiments import (
  assembly,
  encoder,
  evaluate,
  mgrd,
  own_data,
  pipeline,
  responses,
  rlvr,
  sft,
)
from mgrd_jax import paths
from mgrd_jax.audio import features, io
from mgrd_jax.data import clips as clips_lib
from mgrd_jax.data import lexicon, schema, synthetic, text_tasks, transforms
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
  stores: assembly.Stores

  def samples(self, ref: str) -> int:
    """Samples of a clip; of a planned one, those of 3 s."""
    if ref.startswith("0:") and not self.made:
      return int(PLANNED_SECONDS * features.RATE)
    return len(self.stores.wave(ref))


@dataclasses.dataclass(frozen=True)
class Work:
  """One kind of batch of a stage: rows x columns, so many times.

  `before` columns are run elsewhere, and read by these.
  """

  name: str
  rows: int
  columns: int
  times: int
  trains: bool = False
  before: int = 0

  @property
  def tokens(self) -> int:
    return self.rows * self.columns * self.times


def plan(data, seed: int) -> Plan:
  """Reads the manifests there are; plans the built-in set if it is not made.

  Raises:
    ManifestError: a manifest cannot be read at all.
  """
  sizes = synthetic.Sizes(**data.sizes.to_dict())
  key = synthetic.cache_key(sizes, seed, data.labelled)
  folder = epath.Path(data.cache) / key
  made = (folder / "manifest.jsonl").exists()
  if made:
    built_in, _ = schema.read_manifest(
      folder / "manifest.jsonl", check_files=False
    )
    # A shard holds 16-bit samples, and next to nothing beside them.
    size, _ = paths.stamp(folder / "clips.arrayrecord")
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
  found, roots = assembly.placed(built_in), [folder]
  if data.manifest:
    roots.append(epath.Path(data.manifest).parent)
  stores = assembly.Stores(roots, data.max_seconds)
  if data.manifest:
    own, skipped = own_data.read(data.manifest, stores)
    print(f"{data.manifest}: {len(own)} rows, {len(skipped)} skipped")
    found = own_data.joined(found, own)
  refs = {ref for e in found for ref in e.audio}
  return Plan(found, len(refs), seconds, made, stores)


class _Lazy(dict):
  """A dict that makes what it is asked for."""

  def __init__(self, make):
    super().__init__()
    self._make = make

  def __missing__(self, key):
    self[key] = self._make(key)
    return self[key]


def context_of(config, planned: Plan, tokenizer) -> assembly.Context:
  """What the stages draw batches from; clips have lengths, and no sound."""
  model = audio_lm.config_for(config.model, vocab=tokenizer.vocab_size)

  def clip(ref):
    samples = planned.samples(ref)
    shape = features.mel_frames(samples), features.MELS
    return clips_lib.Clip(np.broadcast_to(np.float16(0), shape), samples)

  clips = _Lazy(clip)

  def states(ref):
    frames = features.pooled_frames(len(clips[ref].mel_RM))
    return np.broadcast_to(np.float32(0), (frames, model.encoder.width))

  return assembly.Context(
    config, None, tokenizer, model, planned.examples, clips, _Lazy(states),
    {}, [],
  )  # fmt: skip


def tokenizer_of(workdir, examples) -> tokenizer_lib.HFTokenizer:
  """The run's tokenizer, or the one that it would build."""
  path = epath.Path(workdir) / "tokenizer.json"
  if path.exists():
    return tokenizer_lib.load(path)
  return assembly.build_tokenizer(examples)


def columns(context, examples, *, supervised=True) -> int:
  """Columns that hold the longest of some of the examples."""
  item = assembly.supervised_item if supervised else assembly.prompt_item
  step = max(1, len(examples) // SAMPLED)
  rows = [item(context, e) for e in examples[::step]]
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


def asked(context, config) -> list[schema.Example]:
  """What a stage samples answers to, in its order."""
  if "questions" not in config:
    return context.split("test")
  ask = rlvr.questions if "ppo" in config else mgrd.questions
  return ask(context, config)


def work(config, context) -> list[Work]:
  """The batches of one stage, told by the fields of its config."""
  longest = functools.partial(columns, context)
  if "batch_frames" in config:
    # The encoder learns on mel frames: there is no token yet.
    frames = features.mel_frames(round(PLANNED_SECONDS * features.RATE))
    rows = max(8, round(config.batch_frames / frames))
    return [Work("mel frames", rows, frames, config.steps, True)]
  found = []
  if "questions" in config:
    examples = asked(context, config)
    long = longest(examples, supervised=False)
    new = responses.max_new(context, config)
    drawn = config.get("select_samples", config.samples)
    found.append(Work("questions sampled", len(examples), long + new, drawn))
    if "ppo" in config:
      rows, each = sum(config.prompts.values()), config.steps
      found.append(Work("prompts", rows, long, each, True))
      rows *= config.samples
      found.append(Work("responses", rows, new, each, True, before=long))
  if "audio_rows" in config:
    train = context.split("train")
    train = [e for e in train if config.weights.get(e.source, 0) > 0]
    for name, rows, some in (
      ("audio", config.audio_rows, [e for e in train if len(e.audio) == 1]),
      ("pairs", config.pair_rows, [e for e in train if len(e.audio) > 1]),
      ("text", config.text_rows, [e for e in train if not e.audio]),
    ):
      if some:
        found.append(Work(name, rows, longest(some), config.steps, True))
  if not {"questions", "audio_rows"} & set(config):
    test = context.split("test")
    long = longest(test, supervised=False)
    long += responses.max_new(context, config)
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
    keys = w.before + time
    layer = 8 * part.width + 3 * part.ffn + 2 * part.heads * keys
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
  for name, block, times in (
    ("control without grounding filter", config.mgrd, 1),
    # After each stage but the encoder's, and after the control.
    ("evaluate", config.evaluate, len(planned)),
  ):
    own = pipeline.stage_config(config, block, number=3, init="", last=False)
    found.append((name, own, times))
  return found


def _show_data(planned: Plan) -> None:
  state = "in the cache" if planned.made else "planned, not made yet"
  print(f"\n# examples ({state}; {planned.clips} clips)")
  table: dict[str, collections.Counter] = {}
  for e in planned.examples:
    table.setdefault(e.split, collections.Counter())[e.source] += 1
  for split, by in table.items():
    parts = ", ".join(f"{s} {n}" for s, n in sorted(by.items()))
    print(f"{split}: {by.total()} ({parts})")


def _supervised(context, config) -> Iterator[str]:
  """The first batch of fine-tuning."""
  data, _ = sft.streams(context, config)
  for batch in data(0):
    for tokens_T, valid_T, loss_T in zip(
      batch.tokens_BT, batch.valid_BT, batch.loss_mask_BT, strict=True
    ):
      row = chat.Row(tokens_T[valid_T], loss_T[valid_T], 0, ())
      yield shown(context.tokenizer, row)


def _recognition(context, config) -> Iterator[str]:
  """The first batch of the encoder: what each clip teaches."""
  data, word_ids, classes = encoder.batches(context, config)
  word = {i: w for w, i in word_ids.items()}
  values = [(n, list(of)) for n, of in classes.items()]
  batch = data(0)
  for words_T, label_N in zip(
    batch["words_BT"], batch["label_BN"], strict=True
  ):
    said = " ".join(word[i] for i in words_T.tolist() if i)
    known = [
      f"{name} {of[at]}"
      for (name, of), at in zip(values, label_N.tolist(), strict=True)
      if at >= 0
    ]
    yield f"{', '.join(known)}; words: {said!r}"


def _prompts(context, config) -> Iterator[str]:
  """The first batch of prompts: of the pool, of the selection or the test."""
  # Only the distillation of MGRD asks with the hint that elicits.
  hint = "questions" in config and "ppo" not in config
  for e in asked(context, config)[: config.rows]:
    item = assembly.prompt_item(context, e, hint=hint)
    yield shown(context.tokenizer, item.row)


def _show_batch(context, config, name: str, made: bool) -> None:
  kind, rows = "prompts", _prompts
  if "batch_frames" in config:
    kind, rows = "what each clip teaches", _recognition
  elif "audio_rows" in config and "questions" not in config:
    kind, rows = "loss in [brackets]", _supervised
  planned = "" if made else f"; clips not made yet count {PLANNED_SECONDS:g} s"
  print(f"\n# first batch of {name} ({kind}{planned})")
  for row in rows(context, config):
    print(row)


def _show_budget(config, context, sizes):
  """Prints each stage's batches; returns the memory of the largest stage."""
  print("\n# budget (rows x columns x times = tokens; columns: the longest")
  print(f"# of about {SAMPLED} rows)")
  total, most = 0, (0, 0)
  for name, own, times in stages(config):
    works = work(own, context)
    if "max_new" in own:
      new = responses.max_new(context, own)
      print(f"{name}, a response: {new} tokens at most")
    if "questions" in own:
      mgrd.tell_left_out(name, context, asked(context, own))
    most = max(most, memory(own, works, sizes, context.model), key=sum)
    for w in works:
      w = dataclasses.replace(w, times=w.times * times)
      total += w.tokens
      print(
        f"{name}, {w.name}: {w.rows} x {w.columns} x {w.times} = {w.tokens:,}"
      )
  print(f"in all: {total:,}")
  return most


def show(config, workdir) -> None:
  """Prints config, examples, budget, parameters, memory, the first batch.

  Memory is a rough sum for the largest stage (E width, F ffn, N heads):

    16 B x trained parameters (params, grads, Adam; twice with a critic)
    4 B x rows x columns x (layers x (8 E + 3 F + 2 N x keys) + 2 V)

  A response of PPO reads keys of its prompt too; others, of their columns.

  Raises:
    ManifestError: the user's manifest cannot be read.
  """
  print("# config")
  for name, value in assembly.fields(config.to_dict()):
    print(f"{name} = {value!r}")
  planned = plan(config.data, config.seed)
  _show_data(planned)
  tokenizer = tokenizer_of(workdir, planned.examples)
  context = context_of(config, planned, tokenizer)
  model = context.model
  sizes = counts(model)
  state, alive = _show_budget(config, context, sizes)
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
  # Of the recipe: the encoder's, and the first with text.
  for name, own, _ in stages(config)[:2]:
    _show_batch(context, own, name, planned.made)
