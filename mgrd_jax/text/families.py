"""Released model families: special tokens, their ids, and how to sample.

    folder --load, check--> HFTokenizer;  stop_ids, never_generated, sampling

Tokens are looked up by name.  Their numbers are compared only where a
published file or code states them, so that a folder of another model is
refused before it is heard as noise.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping

from mgrd_jax.text import chat
from mgrd_jax.text import tokenizer as tokenizer_lib


@dataclasses.dataclass(frozen=True)
class Family:
  """The special tokens of a family.

  Attributes:
    begin: opens a turn.
    end: closes a turn.
    before: opens an audio span.
    patch: one audio token of a span.
    after: closes an audio span.
    stops: tokens that end a response, the turn's end first.
    speech: pattern of the tokens that stand for sound, in or out.
    ids: what published files and code say of ids.
  """

  begin: str
  end: str
  before: str
  patch: str
  after: str
  stops: tuple[str, ...]
  speech: str
  ids: Mapping[str, int]

  @property
  def required(self) -> tuple[str, ...]:
    """What the templates write."""
    return self.begin, self.end, self.before, self.patch, self.after

  @property
  def patch_id(self) -> int:
    """The published id of an audio token."""
    return self.ids[self.patch]


FAMILIES = {
  "step-audio": Family(
    begin="<|BOT|>",
    end="<|EOT|>",
    before="<audio_start>",
    patch="<audio_patch>",
    after="<audio_end>",
    stops=("<|EOT|>", "<|endoftext|>", "<|im_end|>"),
    speech=r"<(audio|tts)_\w+>|<\|SC\|>",
    # <|BOT|> and <audio_end> are 151666 and 151689 by the order of a list,
    # which is too little to refuse a file for.
    ids={
      "<|endoftext|>": 151643,
      "<|EOT|>": 151665,
      "<audio_start>": 151688,
      "<audio_patch>": 151690,
      "<tts_start>": 151693,
      "<tts_end>": 151694,
      "<audio_0>": 151696,
      "<audio_6560>": 158256,
      "<audio_6561>": 158257,
    },
  ),
  "qwen2-audio": Family(
    begin="<|im_start|>",
    end="<|im_end|>",
    before="<|audio_bos|>",
    patch="<|AUDIO|>",
    after="<|audio_eos|>",
    stops=("<|im_end|>", "<|endoftext|>"),
    speech=r"<\|AUDIO\|>|<\|audio_[be]os\|>",
    ids={
      "<|endoftext|>": 151643,
      "<|im_start|>": 151644,
      "<|im_end|>": 151645,
      "<|AUDIO|>": 151646,
      "<|audio_bos|>": 151647,
      "<|audio_eos|>": 151648,
    },
  ),
}


def of(family: str) -> Family:
  """The family by its name.

  Raises:
    ValueError: there is none of that name.
  """
  if family not in FAMILIES:
    raise ValueError(f"family {family!r} is none of {', '.join(FAMILIES)}")
  return FAMILIES[family]


def load(
  folder, family: str, *, vocab: int | None = None
) -> tokenizer_lib.HFTokenizer:
  """The tokenizer of a released folder, checked.

  Args:
    folder: as published: tokenizer.json, or vocab.json with merges.txt.
    family: a key of `FAMILIES`.
    vocab: rows of the model's embedding; ids past them are refused.

  Raises:
    ValueError: no tokenizer, a broken one, or one of another model; one line
      that names the file.
  """
  tokenizer = tokenizer_lib.load_folder(folder)
  path = tokenizer_lib.vocabulary_file(folder)
  check(tokenizer, family, path)
  if vocab is not None:
    name, top = max(tokenizer.raw.get_vocab().items(), key=lambda kv: kv[1])
    if top >= vocab:
      raise ValueError(
        f"{path}: {name!r} has id {top}, where the model has {vocab} ids; "
        "take the tokenizer of the same release"
      )
  return tokenizer


def check(tokenizer: tokenizer_lib.HFTokenizer, family: str, path) -> None:
  """Compares the special tokens with what is published of the family.

  Raises:
    ValueError: a token that the template writes is missing, or is spelt out
      in pieces, or a published id is another one here; names `path`, the
      token, the id found and the id expected.
  """
  one = of(family)
  faults = []
  for name in dict.fromkeys((*one.required, *one.ids)):
    want = one.ids.get(name)
    found = tokenizer.raw.token_to_id(name)
    known = "" if want is None else f" (id {want})"
    if found is None:
      if name in one.required or name in one.stops:
        faults.append(f"no token {name!r}{known}")
    elif want is not None and found != want:
      faults.append(f"{name!r} has id {found}, expected {want}")
    elif tokenizer.encode(name) != [found]:
      faults.append(f"{name!r}{known} is no special token")
  if faults:
    more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
    raise ValueError(
      f"{path}: {faults[0]}{more}; this is no tokenizer of a released "
      f"{family} model"
    )


def stop_ids(
  tokenizer: tokenizer_lib.HFTokenizer, family: str, folder=None
) -> tuple[int, ...]:
  """Ids that end a response, the end of the turn first.

  Those of the family that the tokenizer has, and those that the folder's
  generation_config.json lists.

  Raises:
    ValueError: no token ends a turn, or a broken generation_config.json.
  """
  one = of(family)
  names = [n for n in one.stops if tokenizer.raw.token_to_id(n) is not None]
  ids = [tokenizer.id(name) for name in dict.fromkeys((one.end, *names))]
  listed = generation_config(folder).get("eos_token_id")
  listed = listed if isinstance(listed, list) else [listed]
  for i in listed:
    if i is not None and not _is(i, int):
      raise ValueError(
        f"{folder}/generation_config.json: eos_token_id: {i!r} is not an id"
      )
  return tuple(dict.fromkeys(ids + [i for i in listed if i is not None]))


def never_generated(
  tokenizer: tokenizer_lib.HFTokenizer, family: str, vocab: int | None = None
) -> tuple[int, ...]:
  """Ids that no text answer holds, ascending.

  The turn's beginning, audio spans and placeholders, codes of speech, and,
  given the rows of the embedding, those rows that are nobody's id.
  """
  one = of(family)
  speech = re.compile(one.speech)
  ids = {
    i
    for i, name in tokenizer.added().items()
    if name == one.begin or speech.fullmatch(name)
  }
  if vocab is not None:
    ids |= set(range(vocab)) - set(tokenizer.raw.get_vocab().values())
  return tuple(sorted(ids))


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How to draw a response.

  Attributes:
    temperature: of the softmax; 0 takes the most likely token.
    top_p: least probability mass to draw from; 1 draws from all.
    repetition_penalty: of tokens seen already, prompt included; 1 is none.
    max_new: most new tokens.
    top_k: most tokens to draw from; 0 draws from all.
  """

  temperature: float = 0.0
  top_p: float = 1.0
  repetition_penalty: float = 1.0
  max_new: int = 2048
  top_k: int = 0


@dataclasses.dataclass(frozen=True)
class Released:
  """What a released model is asked with unless told otherwise."""

  family: str
  prefill: str
  sampling: Sampling


def within(
  drawn: Sampling, where: str = "", *, max_new: str = "max_new"
) -> Sampling:
  """`drawn`, if every setting of it is one that can be drawn with.

  Raises:
    ValueError: one is not; its name stands behind `where`, that of `max_new`
      as it is called there.
  """
  for name, value, low in (
    ("temperature", drawn.temperature, 0),
    ("top_k", drawn.top_k, 0),
    (max_new, drawn.max_new, 1),
  ):
    if not (math.isfinite(value) and value >= low):
      raise ValueError(f"{where}{name}: {value!r}: give {low} or more")
  if 0 < drawn.temperature < 1e-3:
    raise ValueError(
      f"{where}temperature: {drawn.temperature!r}: give 0 (the likeliest), or "
      "0.001 or more"
    )
  if not 0 < drawn.top_p <= 1:
    raise ValueError(
      f"{where}top_p: {drawn.top_p!r}: give more than 0 and at most 1"
    )
  penalty = drawn.repetition_penalty
  if not 0.01 <= penalty <= 100:
    raise ValueError(
      f"{where}repetition_penalty: {penalty!r}: give 0.01 to 100; 1 is none"
    )
  return drawn


# As the publishers' own examples ask.  Qwen2-Audio's settings stand in its
# generation_config.json, which `sampling` reads; without it, none is known.
RELEASED = {
  "step-audio-r1": Released(
    "step-audio", chat.OPEN, Sampling(0.7, 1.0, 1.0, max_new=32_000)
  ),
  "step-audio-2-mini": Released("step-audio", "", Sampling(0.7, 0.9, 1.05)),
  "qwen2-audio-7b": Released("qwen2-audio", "", Sampling()),
}


def sampling(default: Sampling, folder=None) -> Sampling:
  """`default`, or what the folder's generation_config.json says instead.

  Where it says to sample, the temperature, top_p and top_k that it leaves out
  are transformers' defaults.

  Raises:
    ValueError: a broken generation_config.json; names the file and field.
  """
  given = generation_config(folder)
  for name, kind in _GENERATION.items():
    if given.get(name) is not None and not _is(given[name], kind):
      raise ValueError(
        f"{folder}/generation_config.json: {name}: {given[name]!r} is not a "
        f"{kind.__name__}"
      )
  given = {k: v for k, v in given.items() if v is not None}
  settings = dataclasses.asdict(default)
  if given.get("do_sample") is False:
    settings |= {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
  elif given.get("do_sample"):
    settings |= {
      "temperature": float(given.get("temperature", 1.0)),
      "top_p": float(given.get("top_p", 1.0)),
      "top_k": given.get("top_k", 50),
    }
  if "repetition_penalty" in given:
    settings["repetition_penalty"] = float(given["repetition_penalty"])
  if "max_new_tokens" in given:
    settings["max_new"] = given["max_new_tokens"]
  where = f"{folder}/generation_config.json: "
  return within(Sampling(**settings), where, max_new="max_new_tokens")


_GENERATION = {
  "do_sample": bool,
  "temperature": float,
  "top_p": float,
  "top_k": int,
  "repetition_penalty": float,
  "max_new_tokens": int,
}


def generation_config(folder) -> dict:
  """generation_config.json of a folder; {} where there is none.

  Raises:
    ValueError: it is not a JSON object; names the file.
  """
  if folder is None:
    return {}
  return tokenizer_lib.read_json(
    pathlib.Path(folder) / "generation_config.json"
  )


def _is(value, kind: type) -> bool:
  """Whether a JSON value is of a kind; an integer serves as a float."""
  if isinstance(value, bool) or kind is bool:
    return isinstance(value, bool) and kind is bool
  return isinstance(value, (int, float) if kind is float else kind)
