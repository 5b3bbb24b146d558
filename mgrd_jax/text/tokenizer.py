"""Text to ids and back: tokenizer.json files, and a small built-in one.

    tokenizer.json | vocab.json + merges.txt  (+ added tokens) -> HFTokenizer

All are `tokenizers.Tokenizer` objects behind one class, so that a model
of ours and a released one are read by the same code.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import tokenizers
from etils import epath
from jaxtyping import Int

from mgrd_jax import paths

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

  def added(self) -> dict[int, str]:
    """The tokens that text can spell but byte pairs cannot: id -> name."""
    decoder = self.raw.get_added_tokens_decoder()
    return {i: token.content for i, token in decoder.items()}

  def save(self, path) -> None:
    """Writes a tokenizer.json whole or not at all."""
    paths.write(path, self.raw.to_str())


def stream(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
  """Text as its ids arrive; a character cut between two ids waits for both.

  The pieces joined are `tokenizer.decode` of all the ids.
  """
  held: list[int] = []
  shown = 0
  for i in ids:
    held.append(int(i))
    text = tokenizer.decode(held)
    # Bytes that end inside a character are decoded as replacements.
    whole = text.rstrip("\N{REPLACEMENT CHARACTER}")
    if len(whole) > shown:
      yield whole[shown:]
      shown = len(whole)
    if len(whole) == len(text):
      held, shown = [], 0
  if held:
    yield tokenizer.decode(held)[shown:]


def load(path) -> HFTokenizer:
  """Reads a tokenizer.json.

  Raises:
    ValueError: the file is not one; names the file.
  """
  try:
    text = epath.Path(path).read_text()
    return HFTokenizer(tokenizers.Tokenizer.from_str(text))
  except Exception as error:
    raise ValueError(f"{path}: not a tokenizer.json ({error})") from error


def vocabulary_file(folder) -> pathlib.Path:
  """The file that holds the vocabulary of a released folder.

  Raises:
    ValueError: there is none; names the folder.
  """
  folder = pathlib.Path(folder)
  for names in (("tokenizer.json",), ("vocab.json", "merges.txt")):
    if all((folder / name).is_file() for name in names):
      return folder / names[0]
  raise ValueError(
    f"{folder}: no tokenizer.json, nor vocab.json with merges.txt; copy the "
    "tokenizer's files there"
  )


def load_folder(folder) -> HFTokenizer:
  """The tokenizer of a folder in Hugging Face's layout.

  Read from tokenizer.json, or else built as Qwen2's from vocab.json and
  merges.txt.  Tokens that stand only in added_tokens.json or
  tokenizer_config.json are added under the ids given there.

  Raises:
    ValueError: no tokenizer, or a broken file, or files that disagree about
      an id; names the file.
  """
  folder = pathlib.Path(folder)
  path = vocabulary_file(folder)
  added = _added_tokens(folder)
  if path.name == "tokenizer.json":
    raw = load(path).raw
  else:
    raw = _byte_pairs(path, folder / "merges.txt", added)
  known = {t.content for t in raw.get_added_tokens_decoder().values()}
  fresh = [token for _, token in added.values() if token.content not in known]
  # In one call per run of a kind: each call rebuilds the whole matcher.
  for special, run in itertools.groupby(fresh, lambda token: token.special):
    (raw.add_special_tokens if special else raw.add_tokens)(list(run))
  for name, (want, _) in added.items():
    if raw.token_to_id(name) != want:
      raise ValueError(
        f"{path}: {name!r} has id {raw.token_to_id(name)}, where the added "
        f"tokens beside it say {want}; take all files from one release"
      )
  return HFTokenizer(raw)


# How Qwen2 cuts text before it merges bytes: contractions, words with one
# leading mark, single digits, marks with the line breaks behind them, spaces.
QWEN2 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_pairs(path, merges_path, added) -> tokenizers.Tokenizer:
  """Qwen2's byte-level BPE: NFC, `QWEN2`, bytes, merges."""
  vocab = read_json(path)
  if not all(isinstance(i, int) for i in vocab.values()):
    raise ValueError(f"{path}: not a vocabulary (an object of token: id)")
  # Tokens that no merge makes; so placed, each keeps the id it was given.
  vocab |= {name: i for name, (i, _) in added.items()}
  merges = _merges(merges_path)
  try:
    model = tokenizers.models.BPE(vocab=vocab, merges=merges)
  except Exception as error:
    raise ValueError(
      f"{merges_path}: does not fit {path.name} ({error})"
    ) from error
  raw = tokenizers.Tokenizer(model)
  raw.normalizer = tokenizers.normalizers.NFC()
  split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(QWEN2), "isolated")
  as_bytes = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  raw.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, as_bytes])
  raw.decoder = tokenizers.decoders.ByteLevel()
  return raw


def _merges(path) -> list[tuple[str, str]]:
  pairs = []
  try:
    lines = path.read_text(encoding="utf-8").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"{path}: not a list of merges ({error})") from error
  for number, line in enumerate(lines, 1):
    line = line.rstrip("\r")
    if not line or (number == 1 and line.startswith("#version")):
      continue
    left, _, right = line.partition(" ")
    if not left or not right or " " in right:
      raise ValueError(
        f"{path}: line {number}: a merge is two pieces, not {line[:40]!r}"
      )
    pairs.append((left, right))
  return pairs


def _added_tokens(folder) -> dict[str, tuple[int, tokenizers.AddedToken]]:
  """name -> (id, token), in the order of the ids."""
  found = {}
  path = folder / "tokenizer_config.json"
  table = read_json(path).get("added_tokens_decoder", {})
  try:
    for i, spec in table.items():
      flags = {k: bool(v) for k, v in spec.items() if k in _FLAGS}
      name = spec["content"]
      found[name] = int(i), tokenizers.AddedToken(name, **flags)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{path}: added_tokens_decoder: not id: token ({error!r})"
    ) from error
  path = folder / "added_tokens.json"
  for name, i in read_json(path).items():
    if not isinstance(i, int) or (name in found and found[name][0] != i):
      other = found[name][0] if name in found else "an integer"
      raise ValueError(
        f"{path}: {name!r} has id {i!r}, where {other} was expected; take all "
        "files from one release"
      )
    token = tokenizers.AddedToken(name, normalized=False, special=True)
    found.setdefault(name, (i, token))
  return dict(sorted(found.items(), key=lambda item: item[1][0]))


_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def read_json(path) -> dict:
  """A JSON object; {} where there is no such file.

  Raises:
    ValueError: the file holds something else; names it.
  """
  try:
    found = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
  except FileNotFoundError:
    return {}
  except (OSError, ValueError) as error:
    raise ValueError(f"{path}: not JSON ({error})") from error
  if not isinstance(found, dict):
    raise ValueError(f"{path}: not a JSON object")
  return found


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
