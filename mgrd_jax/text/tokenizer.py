"""Text to ids and back: tokenizer.json files, and a small built-in one.

Both are `tokenizers.Tokenizer` objects behind one class, so that a model
of ours and a released one are read by the same code.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import tokenizers
from jaxtyping import Int

Ids = Sequence[int] | Int[np.ndarray, " T"]
SPECIAL = (
  "<|endoftext|>",
  "<|BOT|>",
  "<|EOT|>",
  "<audio_start>",
  "<audio_end>",
  "<audio_patch>",
)
THINK = ("<think>", "</think>")


@runtime_checkable
class Tokenizer(Protocol):
  """What the library needs of a tokenizer."""

  vocab_size: int

  def encode(self, text: str) -> list[int]: ...

  def decode(self, ids: Ids) -> str: ...

  def id(self, token: str) -> int: ...


@dataclasses.dataclass(frozen=True)
class HFTokenizer:
  """A tokenizer.json; special tokens in the text are recognised.

  `decode` keeps special tokens: the reward sees what the policy wrote.
  """

  raw: tokenizers.Tokenizer

  @property
  def vocab_size(self) -> int:
    return self.raw.get_vocab_size(with_added_tokens=True)

  def encode(self, text: str) -> list[int]:
    return self.raw.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Ids) -> str:
    return self.raw.decode(list(map(int, ids)), skip_special_tokens=False)

  def id(self, token: str) -> int:
    """The id of one token by name.

    Raises:
      ValueError: the tokenizer has no such token.
    """
    found = self.raw.token_to_id(token)
    if found is None:
      raise ValueError(f"the tokenizer has no token {token!r}")
    return found

  def save(self, path) -> None:
    pathlib.Path(path).write_text(self.raw.to_str())


def load(path) -> HFTokenizer:
  """Reads a tokenizer.json.

  Raises:
    ValueError: the file is not one; names the file.
  """
  try:
    text = pathlib.Path(path).read_text(encoding="utf-8")
    return HFTokenizer(tokenizers.Tokenizer.from_str(text))
  except Exception as error:
    raise ValueError(f"{path}: not a tokenizer.json ({error})") from error


WORD = r" ?[a-z']+| ?[0-9]|\n| ?[^\sa-z0-9]|\s"


def build(texts: Iterable[str]) -> HFTokenizer:
  """A word-level tokenizer over the words of `texts`, lower case.

  Every word seen is one id, with its leading space; letters and bytes
  stand behind it, so any string has an encoding and any lower-case string
  survives the round trip.  Digits are encoded one by one.
  """
  split = tokenizers.Regex(WORD)
  pre = tokenizers.pre_tokenizers.Split(split, "isolated")
  words: dict[str, None] = {}
  for text in texts:
    for piece, _ in pre.pre_tokenize_str(text.lower()):
      # Both forms of a word: inside a line and at its beginning.
      words.setdefault(piece.strip(" "))
      words.setdefault(" " + piece.strip(" "))
  letters = [chr(c) for c in range(32, 127)] + ["\n"]
  spaced = [" " + c for c in "0123456789"]
  pieces = dict.fromkeys(letters, -10.0) | dict.fromkeys(spaced, -1.0)
  pieces |= {w: -1.0 for w in sorted(words) if w.isascii() and len(w) > 1}
  vocab = [("<unk>", -100.0)] + [(f"<0x{b:02X}>", -50.0) for b in range(256)]
  vocab += list(pieces.items())
  model = tokenizers.models.Unigram(vocab, unk_id=0, byte_fallback=True)
  raw = tokenizers.Tokenizer(model)
  raw.normalizer = tokenizers.normalizers.Lowercase()
  raw.pre_tokenizer = pre
  raw.decoder = tokenizers.decoders.Sequence(
    [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
  )
  added = lambda t: tokenizers.AddedToken(t, normalized=False)
  raw.add_special_tokens([added(t) for t in SPECIAL])
  raw.add_tokens([added(t) for t in THINK])
  return HFTokenizer(raw)
