"""The built-in audio question set, rendered from a seed.

    world, clip plans --synth, in processes--> clips.arrayrecord
                     --questions-->  manifest.jsonl   (one Example a line)

Splits: `train` (perception tasks and direct questions), `pool` (questions
for distillation and RL), `test` (unseen voices, instruments and phrases).
Held-out combinations of attributes carry no label question in train or
pool; their rule is taught in text only.
"""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath

from mgrd_jax import paths
from mgrd_jax.audio import espeak, features, io, synth
from mgrd_jax.data import lexicon, schema, sources, text_tasks
from mgrd_jax.data import workers as workers_lib
from mgrd_jax.data.schema import Example

# Whose code decides on the set, beside this file's; see `cache_key`.
MAKERS = (espeak, features, io, synth, lexicon, schema, sources, text_tasks)
COMPARED_SECONDS = 2.6  # the longest clip that another is compared with
EVIDENCE = {"sums": "words", "logic": "words"}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Clips per split and kind."""

  train: dict
  pool: dict
  test: dict
  text: int = 4000
  background: int = 2000
  hint_share: float = 0.8


@dataclasses.dataclass(frozen=True)
class Clip:
  """A planned clip: how to render it, and what is true of it."""

  kind: str  # voice | music | events | order | sums | logic
  split: str
  facts: dict
  words: str = ""
  suggests: str = ""  # the label that the words point to
  answer: str = ""
  voice: str = ""
  kinds: tuple[str, ...] = ()


def _named(table: dict, split: str) -> list[str]:
  part = "test" if split == "test" else "train"
  return [name for name, where in table.items() if where == part]


def _pick(rng, items):
  return items[int(rng.integers(len(items)))]


def _is_tested(said: str) -> bool:
  """Whether a sentence or an order is heard in the test, and only there."""
  return zlib.crc32(said.encode()) % 4 == 0


def plan_clip(rng, kind: str, split: str, world: lexicon.World) -> Clip:
  """Draws one clip; in `pool`, only combinations that are not held out."""
  if kind in lexicon.FAMILIES:
    family = lexicon.FAMILIES[kind]
    facts = text_tasks.random_facts(rng, family)
    while split == "pool" and world.is_heldout(family, facts):
      facts = text_tasks.random_facts(rng, family)
    if kind == "music":
      instrument = _pick(rng, _named(synth.INSTRUMENTS, split))
      return Clip(kind, split, facts, voice=instrument)
    if kind == "events":
      one = _pick(rng, synth.TONAL_KINDS)
      return Clip(kind, split, facts, kinds=(one,) * int(facts["count"]))
    label = _pick(rng, family.labels)
    part = "test" if split == "test" else "train"
    words = _pick(rng, lexicon.phrases(label, part))
    return Clip(
      kind,
      split,
      facts,
      words=words,
      suggests=label,
      voice=_pick(rng, _named(synth.VOICES, split)),
    )
  if kind == "order":
    kinds, answer = text_tasks.order_answer(rng)
    while _is_tested(answer) != (split == "test"):
      kinds, answer = text_tasks.order_answer(rng)
    facts = {"count": str(len(kinds))}
    return Clip(kind, split, facts, kinds=kinds, answer=answer)
  make = {"sums": text_tasks.sum_question, "logic": text_tasks.logic_question}
  words, _, answer = make[kind](rng)
  while _is_tested(words) != (split == "test"):
    words, _, answer = make[kind](rng)
  voice = _pick(rng, _named(synth.VOICES, split))
  facts = text_tasks.random_facts(rng, lexicon.VOICE)
  return Clip(kind, split, facts, words=words, answer=answer, voice=voice)


def render(clip: Clip, seed: tuple[int, ...]) -> np.ndarray:
  """The clip's samples; the same for the same plan and seed."""
  rng = np.random.default_rng(seed)
  facts = {k: v for k, v in clip.facts.items() if k != "count"}
  if clip.kind == "music":
    return synth.music(**facts, instrument=clip.voice, rng=rng)
  if clip.kind in ("events", "order"):
    pitch = facts.get("pitch") or _pick(rng, synth.PITCH)
    spacing = facts.get("regularity", "regular")
    return synth.events(
      kinds=clip.kinds, pitch=pitch, regularity=spacing, rng=rng
    )
  return synth.speech(clip.words, voice=clip.voice, **facts, rng=rng)


def _render_many(jobs) -> list[np.ndarray]:
  return [
    np.round(np.clip(render(c, s), -1, 1) * 32767).astype(np.int16)
    for c, s in jobs
  ]


def plan(sizes: Sizes, seed: int, world: lexicon.World) -> list[Clip]:
  """All clips, in the order of their shard."""
  clips = []
  for number, split in enumerate(("train", "pool", "test")):
    rng = np.random.default_rng((seed, 7, number))
    for kind, count in getattr(sizes, split).items():
      clips += [plan_clip(rng, kind, split, world) for _ in range(count)]
  return clips


class _Writer:
  """Collects Examples and numbers them by split and source."""

  def __init__(self):
    self.rows: list[Example] = []

  def add(self, clip: Clip, audio, source, question, answer, **fields):
    meta = {
      "family": clip.kind,
      "facts": fields.pop("facts", clip.facts),
      "evidence": EVIDENCE.get(clip.kind, "sound"),
    } | fields.pop("meta", {})
    self.rows.append(
      Example(
        id=f"{clip.split}-{source}-{len(self.rows):06d}",
        audio=tuple(audio),
        question=question,
        answer=answer,
        source=source,
        split=clip.split,
        transcript=clip.words or None,
        meta=meta,
        **fields,
      )
    )


def _label_question(rng, out: _Writer, clip: Clip, ref: str, world) -> None:
  family = lexicon.FAMILIES[clip.kind]
  label = world.label(family, clip.facts)
  out.add(
    clip,
    [ref],
    "label",
    family.question,
    label,
    answer_type="choice",
    options=text_tasks.shuffled(rng, family.labels),
    meta={
      "conflict": bool(clip.suggests) and clip.suggests != label,
      "suggests": clip.suggests,
      "heldout": world.is_heldout(family, clip.facts),
    },
  )


def _attribute_question(rng, out: _Writer, clip: Clip, ref: str) -> None:
  family = lexicon.FAMILIES.get(clip.kind, lexicon.VOICE)
  names = [n for n in family.attributes if n in lexicon.ATTRIBUTE]
  name = _pick(rng, names)
  out.add(
    clip,
    [ref],
    "attribute",
    lexicon.ATTRIBUTE[name],
    clip.facts[name],
    answer_type="choice",
    options=text_tasks.shuffled(rng, family.attributes[name][0]),
    meta={"attribute": name},
  )


def _spoken_question(out: _Writer, clip: Clip, ref: str) -> None:
  if clip.kind == "order":
    out.add(
      clip,
      [ref],
      "order",
      lexicon.ORDER,
      clip.answer,
      answer_type="text",
      meta={"candidates": text_tasks.order_candidates()},
    )
  elif clip.kind == "sums":
    out.add(
      clip,
      [ref],
      "sums",
      lexicon.SUM,
      clip.answer,
      answer_type="number",
      meta={"candidates": 19},
    )
  else:
    out.add(
      clip,
      [ref],
      "logic",
      lexicon.LOGIC,
      clip.answer,
      answer_type="choice",
      options=("yes", "no"),
    )


def _perception(rng, out: _Writer, clip: Clip, ref: str) -> None:
  """What the clip sounds like and says, without any label."""
  if clip.kind in lexicon.FAMILIES:
    family = lexicon.FAMILIES[clip.kind]
    hint = {"hint": True} if rng.random() < 0.5 else {}
    out.add(
      clip,
      [ref],
      "caption",
      lexicon.DESCRIBE,
      f"{lexicon.HEARD} {lexicon.describe(family, clip.facts)}",
      answer_type="text",
      meta=hint,
    )
    _attribute_question(rng, out, clip, ref)
  said = clip.words or " ".join(clip.kinds)
  if said:
    question = lexicon.TRANSCRIBE if clip.words else lexicon.LISTEN
    out.add(clip, [ref], "transcript", question, said, answer_type="text")


def _count_question(out: _Writer, clip: Clip, ref: str) -> None:
  out.add(
    clip,
    [ref],
    "count",
    lexicon.COUNT,
    clip.facts["count"],
    answer_type="number",
    meta={"candidates": 3},
  )


def _comparisons(rng, out: _Writer, voices, count: int) -> None:
  """Two-clip questions over short voice clips that differ in one attribute.

  In `train`, that attribute of both is also described.
  """
  names = [
    n for n in lexicon.COMPARE if len({c.facts[n] for c, _ in voices}) > 1
  ]
  made = 0
  while names and made < count:
    (a, ref_a), (b, ref_b) = _pick(rng, voices), _pick(rng, voices)
    name = _pick(rng, names)
    question, high = lexicon.COMPARE[name]
    if a.facts[name] == b.facts[name]:
      continue
    made += 1
    meta = {"clips": [a.facts, b.facts]}
    out.add(
      a,
      [ref_a, ref_b],
      "compare",
      question,
      "first" if a.facts[name] == high else "second",
      answer_type="choice",
      options=("first", "second"),
      facts={},
      meta=meta,
    )
    if a.split == "train":
      hint = {"hint": True} if rng.random() < 0.5 else {}
      described = lexicon.describe_both(a.facts, b.facts, [name])
      out.add(
        a,
        [ref_a, ref_b],
        "pair",
        lexicon.DESCRIBE_BOTH.format(lexicon.VOICE.attributes[name][1]),
        f"{lexicon.HEARD} {described}",
        answer_type="text",
        facts={},
        meta=meta | hint,
      )


def questions(
  clips: list[Clip],
  refs: list[str],
  seconds: list[float],
  world: lexicon.World,
  *,
  seed: int,
  labelled: float,
) -> Iterator[Example]:
  """All audio Examples over the rendered clips.

  In `train`, a `labelled` share of the clips that are not held out carries
  a label question; every clip carries its perception tasks.
  """
  rng = np.random.default_rng((seed, 11))
  out = _Writer()
  voices: dict[str, list] = {}
  for clip, ref, length in zip(clips, refs, seconds, strict=True):
    family = lexicon.FAMILIES.get(clip.kind)
    if clip.kind == "voice" and length <= COMPARED_SECONDS:
      voices.setdefault(clip.split, []).append((clip, ref))
    if clip.split == "train":
      _perception(rng, out, clip, ref)
    if family is None:
      _spoken_question(out, clip, ref)
      continue
    if clip.split == "train":
      if world.is_heldout(family, clip.facts) or rng.random() > labelled:
        continue
    draw = rng.random()
    if clip.kind == "events" and draw < 0.35:
      _count_question(out, clip, ref)
    elif clip.split != "train" and draw > 0.9:
      _attribute_question(rng, out, clip, ref)
    else:
      _label_question(rng, out, clip, ref, world)
  for found in voices.values():
    share = 4 if found[0][0].split == "train" else 10
    _comparisons(rng, out, found, max(4, len(found) // share))
  return iter(out.rows)


def with_background(told, clips, refs, seconds, seed: int) -> list[Example]:
  """Text examples beside a clip that has nothing to do with them.

  Those on two sounds stand beside two clips.

  The reasoning rests on the text alone; without such rows a model that has
  only ever thought about text does not think in whole sentences once audio
  is in its context.  Their sources end in "_heard".
  """
  rng = np.random.default_rng((seed, 17))
  train, short = [], []
  for clip, ref, length in zip(clips, refs, seconds, strict=True):
    if clip.split == "train":
      train.append(ref)
      if length <= COMPARED_SECONDS:
        short.append(ref)

  def beside(e):
    if e.source == "compared":
      return _pick(rng, short or train), _pick(rng, short or train)
    return (_pick(rng, train),)

  return [
    dataclasses.replace(
      e,
      id=f"{e.id}-heard",
      audio=beside(e),
      source=f"{e.source}_heard",
      meta=e.meta | {"background": True},
    )
    for e in told
  ]


def cache_key(sizes: Sizes, seed: int, labelled: float) -> str:
  """Names everything that the set depends on, the code that makes it too.

  The code is read as text: a comment that changes makes the set anew, which
  costs a minute; what is made is the same.
  """
  text = json.dumps([dataclasses.asdict(sizes), seed, labelled])
  key = hashlib.sha256(text.encode())
  for file in (__file__, *(module.__file__ for module in MAKERS)):
    key.update(epath.Path(file).read_bytes())
  return key.hexdigest()[:12]


def build(
  root,
  sizes: Sizes,
  *,
  seed: int,
  labelled: float = 0.5,
  workers: int = 2,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> epath.Path:
  """Makes the set, or finds it made: returns the manifest's path.

  Written under `root/<cache key>`; the manifest is written last, so a
  folder that has one is whole.
  """
  folder = epath.Path(root) / cache_key(sizes, seed, labelled)
  manifest = folder / "manifest.jsonl"
  if manifest.exists():
    return manifest
  world = lexicon.draw_world(seed)
  clips = plan(sizes, seed, world)
  jobs = [(c, (seed, 13, i)) for i, c in enumerate(clips)]
  step = 64
  parts = [jobs[i : i + step] for i in range(0, len(jobs), step)]
  seconds: list[float] = []

  def waves(pool):
    for done, part in enumerate(pool.map(_render_many, parts)):
      for wave_W in part:
        seconds.append(len(wave_W) / synth.RATE)
        yield wave_W.astype(np.float32) / 32767
      progress(min((done + 1) * step, len(jobs)), len(jobs))

  with (
    workers_lib.pool(workers) as pool,
    paths.staged(folder / "clips.arrayrecord") as shard,
  ):
    refs = sources.write_clips(shard, waves(pool))
  rows = list(
    questions(clips, refs, seconds, world, seed=seed, labelled=labelled)
  )
  for source in text_tasks.SOURCES:
    told = text_tasks.build(
      world, source, sizes.text, seed=seed, hint_share=sizes.hint_share
    )
    heard = told[: sizes.background]
    rows += told + with_background(heard, clips, refs, seconds, seed)
  schema.write_manifest(manifest, rows)
  return manifest
