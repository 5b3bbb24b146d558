"""A handful of questions of every split, and a context that takes notes.

The states of the clips and the tokenizer are real ones that write down what
is asked of them: which clips are played, and which words are read.
"""

import dataclasses
import itertools

import numpy as np

from configs import pipeline as pipeline_config
from experiments import assembly, pipeline
from mgrd_jax.audio import features
from mgrd_jax.data import clips as clips_lib
from mgrd_jax.data import schema
from mgrd_jax.text import tokenizer as tokenizer_lib
from mgrd_jax.train import checkpoint
from tests import toys
from tests.mgrd import chains

SPLITS = ("train", "pool", "test")
SAMPLES = 4000  # of each clip: four audio tokens
CLIP = clips_lib.Clip(
  np.zeros((features.mel_frames(SAMPLES), 128), np.float16), SAMPLES
)
CHAIN = f"{chains.describe(chains.clips()[2][0])}. so {chains.LABELS[2]}"


class Played(dict):
  """States of clips; notes whose are taken out."""

  def __init__(self, states):
    super().__init__(states)
    self.refs = []

  def __getitem__(self, ref):
    self.refs.append(ref)
    return super().__getitem__(ref)


@dataclasses.dataclass(frozen=True)
class Tokenizer(tokenizer_lib.HFTokenizer):
  """Notes the texts that it is given."""

  texts: list = dataclasses.field(default_factory=list)

  def encode(self, text):
    self.texts.append(text)
    return super().encode(text)

  @property
  def prompts(self) -> list[str]:
    return [t for t in self.texts if t.startswith("<|BOT|>")]


def of_split(split: str) -> list[schema.Example]:
  """Four dances, two pairs, a text and a question of the user's own.

  Each has a clip, a transcript and an id that begin with its split; dances
  ask the same and differ in their answers, and so do pairs.
  """
  found = [
    chains.example(
      at,
      id=f"{split}-{at}",
      audio=(f"0:{split}-{at}",),
      transcript=f"{split}ed",
      split=split,
    )
    for at in range(4)
  ]
  found += [
    chains.example(
      at,
      id=f"{split}-pair-{at}",
      question="which dance are they?",
      audio=(f"0:{split}-pair-{at}", f"0:{split}-other-{at}"),
      split=split,
      source="pair",
    )
    for at in range(2)
  ]
  own = chains.example(
    1,
    id=f"{split}-own",
    question=f"what is my {split}?",
    audio=(f"1:{split}-own",),
    split=split,
    source="own",
    meta={"family": "own", "own": True},
  )
  told = schema.Example(
    id=f"{split}-told",
    question=f"what does the {split} tell?",
    answer="tango",
    answer_type="text",
    reasoning=CHAIN,
    split=split,
    source="describe",
  )
  return [*found, own, told]


def examples() -> list[schema.Example]:
  return list(itertools.chain(*map(of_split, SPLITS)))


def context() -> assembly.Context:
  """All splits, with silent twins of the test's clips; nothing noted yet.

  Dance k of a split is measured to be clip k of `chains`.
  """
  every = examples()
  found = {s: [r for e in of_split(s) for r in e.audio] for s in SPLITS}
  refs = list(itertools.chain(*found.values()))
  facts = [facts for _, facts in chains.clips()]
  silent = [f"silent/{ref}" for ref in found["test"]]
  frames = features.pooled_frames(len(CLIP.mel_RM))
  raw = assembly.build_tokenizer(every).raw
  vocab = raw.get_vocab_size(with_added_tokens=True)
  decoder = dataclasses.replace(toys.CONFIG.decoder, vocab=vocab)
  return assembly.Context(
    config=None,
    mesh=None,
    tokenizer=Tokenizer(raw),
    model=dataclasses.replace(toys.CONFIG, decoder=decoder),
    examples=every,
    clips=dict.fromkeys(refs, CLIP),
    enc=Played(
      (ref, toys.clip(at, frames)) for at, ref in enumerate([*refs, *silent])
    ),
    facts={r: facts[k] for s in SPLITS for k, r in enumerate(found[s])},
    skipped=[],
  )


def finished(folder, context):
  """A stage's folder with an untrained model, as the next one starts from."""
  params = toys.params(config=context.model)
  checkpoint.save(folder / "params", params)
  return folder


def recipe(arg: str = "smoke,rounds=1"):
  """The recipe's own config, where fine-tuning takes no step."""
  config = pipeline_config.get_config(arg)
  config.mgrd.steps = 0
  config.evaluate.max_new = 2
  config.evaluate.rows = 4  # one program for all modes
  return config


def stage(block: str, init="", **fields):
  """Config of one stage of `recipe`, with some fields changed."""
  config = recipe()
  own = pipeline.stage_config(
    config, config[block], number=3, init=str(init), last=False
  )
  own.update(fields)
  return own
