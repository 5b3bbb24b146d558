"""A byte-level tokenizer with the ids of the released ones, and few pieces.

The bytes, the pieces around the think tags and roles, and the special tokens
stand under their published ids; nothing fills the space between.
"""

import json

REGEX = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
  r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# In the order of their ranks: "<th" is older than "think".
PIECES = {
  "th": 100_000, "in": 100_001, "ink": 766, "<th": 13708, "think": 26865,
  "</": 522, ">\n": 397, ">\n\n": 1339,
}  # fmt: skip
WORDS = {"assistant": 77091, "human": 25312, "system": 8948, "user": 872}

STEP_AUDIO = {
  "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645,
  "<tool_call>": 151657, "</tool_call>": 151658,
  "<|EOT|>": 151665, "<|BOT|>": 151666,
  "<|THINK_START|>": 151669, "<|THINK_END|>": 151670,
  "<audio_start>": 151688, "<audio_end>": 151689, "<audio_patch>": 151690,
  "<audio_patch_pad>": 151691, "<|SC|>": 151692,
  "<tts_start>": 151693, "<tts_end>": 151694, "<tts_pad>": 151695,
  "<audio_0>": 151696, "<audio_6560>": 158256, "<audio_6561>": 158257,
}  # fmt: skip
QWEN2_AUDIO = {
  "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645,
  "<|AUDIO|>": 151646, "<|audio_bos|>": 151647, "<|audio_eos|>": 151648,
}  # fmt: skip
SPECIAL = {"step-audio": STEP_AUDIO, "qwen2-audio": QWEN2_AUDIO}
# Not special where they were published, though added.
PLAIN = ("<tool_call>", "</tool_call>")


def letters():
  """The character that stands for each byte, in the order of the ids."""
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  hidden = [b for b in range(256) if b not in shown]
  of = {b: chr(b) for b in shown} | {
    b: chr(256 + i) for i, b in enumerate(hidden)
  }
  return of


def spelt(text):
  of = letters()
  return "".join(of[b] for b in text.encode())


def model():
  """(vocabulary, merges) over bytes."""
  vocab = {char: i for i, char in enumerate(letters().values())}
  vocab |= {spelt(piece): i for piece, i in PIECES.items()}
  merges = [("t", "h"), ("i", "n"), ("in", "k"), ("<", "th"), ("th", "ink")]
  merges += [("<", "/"), (">", "\n"), (">\n", "\n")]
  free = 100_002
  for word, word_id in WORDS.items():
    for end in range(2, len(word) + 1):
      piece = word[:end]
      vocab[piece] = word_id if piece == word else free
      free += 1
      merges.append((word[: end - 1], word[end - 1]))
  merges = [(spelt(left), spelt(right)) for left, right in merges]
  # A piece that ends inside a character: a space and 漢's first byte.
  space, first, *_ = spelt(" 漢")
  vocab[space + first] = free
  return vocab, [*merges, (space, first)]


def flags(name):
  return {
    "content": name,
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": name not in PLAIN,
  }


def write(folder, special=STEP_AUDIO, *, form="tokenizer.json"):
  """Writes a folder as released, in one of its forms; returns the folder.

  `form` is "tokenizer.json", or what stands beside vocab.json and
  merges.txt: "added_tokens.json" or "tokenizer_config.json".
  """
  folder.mkdir(exist_ok=True)
  vocab, merges = model()
  lines = [f"{left} {right}" for left, right in merges]
  if form == "tokenizer.json":
    as_bytes = {"add_prefix_space": False, "trim_offsets": False}
    as_bytes |= {"type": "ByteLevel", "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": REGEX}}
    split |= {"behavior": "Isolated", "invert": False}
    # A token in the vocabulary keeps its id; others are counted on from it.
    found = {
      "version": "1.0",
      "added_tokens": [{"id": i} | flags(name) for name, i in special.items()],
      "normalizer": {"type": "NFC"},
      "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, as_bytes]},
      "post_processor": as_bytes,
      "decoder": as_bytes,
      "model": {"type": "BPE", "vocab": vocab | special, "merges": lines},
    }
    (folder / form).write_text(json.dumps(found))
    return folder
  (folder / "vocab.json").write_text(json.dumps(vocab))
  (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]))
  found = special
  if form == "tokenizer_config.json":
    found = {
      "added_tokens_decoder": {str(i): flags(n) for n, i in special.items()}
    }
  (folder / form).write_text(json.dumps(found))
  return folder
