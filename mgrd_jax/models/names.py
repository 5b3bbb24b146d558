"""Names and layouts of published checkpoints, beside ours.

    decoder/q_LDNH  <->  model.layers.{i}.self_attn.q_proj.weight  [N·H, D]

A line of a table gives a leaf by its stem (our name without its axes), the
axes of its tensor in our letters, and the tensor's name.  Letters that stand
together are one flattened axis: "NH D" is a matrix [N·H, D].  A leaf's own
axes are in its name, so every transpose follows from letters and a weight may
be laid out anew without a change here.  A letter that stands twice is input
and output: torch has the output first, we have the input first.
"""

import dataclasses
import functools
import math
from collections.abc import Collection

from mgrd_jax.models import audio_lm
from mgrd_jax.models.released import QWEN2_AUDIO, STEP_AUDIO

# Stem, axes, Step-Audio's name, Qwen2-Audio's name.
ENCODER = (
  ("conv1", "E M R", "conv1.weight", "conv1.weight"),
  ("conv1_bias", "E", "conv1.bias", "conv1.bias"),
  ("conv2", "E E R", "conv2.weight", "conv2.weight"),
  ("conv2_bias", "E", "conv2.bias", "conv2.bias"),
  ("position", "A E", "positional_embedding.weight", "embed_positions.weight"),
  ("attn_norm", "E", "{b}.attn_ln.weight", "{l}.self_attn_layer_norm.weight"),
  ("attn_norm_bias", "E", "{b}.attn_ln.bias", "{l}.self_attn_layer_norm.bias"),
  ("q", "NH E", "{b}.attn.query.weight", "{l}.self_attn.q_proj.weight"),
  ("q_bias", "NH", "{b}.attn.query.bias", "{l}.self_attn.q_proj.bias"),
  ("k", "NH E", "{b}.attn.key.weight", "{l}.self_attn.k_proj.weight"),
  ("v", "NH E", "{b}.attn.value.weight", "{l}.self_attn.v_proj.weight"),
  ("v_bias", "NH", "{b}.attn.value.bias", "{l}.self_attn.v_proj.bias"),
  ("out", "E NH", "{b}.attn.out.weight", "{l}.self_attn.out_proj.weight"),
  ("out_bias", "E", "{b}.attn.out.bias", "{l}.self_attn.out_proj.bias"),
  ("mlp_norm", "E", "{b}.mlp_ln.weight", "{l}.final_layer_norm.weight"),
  ("mlp_norm_bias", "E", "{b}.mlp_ln.bias", "{l}.final_layer_norm.bias"),
  ("up", "F E", "{b}.mlp.0.weight", "{l}.fc1.weight"),
  ("up_bias", "F", "{b}.mlp.0.bias", "{l}.fc1.bias"),
  ("down", "E F", "{b}.mlp.2.weight", "{l}.fc2.weight"),
  ("down_bias", "E", "{b}.mlp.2.bias", "{l}.fc2.bias"),
  ("norm", "E", "after_norm.weight", "layer_norm.weight"),
  ("norm_bias", "E", "after_norm.bias", "layer_norm.bias"),
)
ADAPTER = {
  STEP_AUDIO: (
    ("conv", "E E R", "conv.weight"),
    ("conv_bias", "E", "conv.bias"),
    ("up", "F E", "linear1.weight"),
    ("up_bias", "F", "linear1.bias"),
    ("down", "D F", "linear2.weight"),
    ("down_bias", "D", "linear2.bias"),
  ),
  QWEN2_AUDIO: (
    ("proj", "D E", "linear.weight"),
    ("proj_bias", "D", "linear.bias"),
  ),
}
DECODER = (
  ("embed", "V D", "embed_tokens.weight"),
  ("norm", "D", "norm.weight"),
  ("attn_norm", "D", "{l}.input_layernorm.weight"),
  ("q", "NH D", "{l}.self_attn.q_proj.weight"),
  ("q_bias", "NH", "{l}.self_attn.q_proj.bias"),
  ("k", "KH D", "{l}.self_attn.k_proj.weight"),
  ("k_bias", "KH", "{l}.self_attn.k_proj.bias"),
  ("v", "KH D", "{l}.self_attn.v_proj.weight"),
  ("v_bias", "KH", "{l}.self_attn.v_proj.bias"),
  ("out", "D NH", "{l}.self_attn.o_proj.weight"),
  ("mlp_norm", "D", "{l}.post_attention_layernorm.weight"),
  ("gate", "F D", "{l}.mlp.gate_proj.weight"),
  ("up", "F D", "{l}.mlp.up_proj.weight"),
  ("down", "D F", "{l}.mlp.down_proj.weight"),
)
HEAD = ("head", "V D", "weight")

# Where each part hangs.  The first prefix is the published one; the others are
# those that versions of transformers give a model they save anew.
PREFIXES = {
  STEP_AUDIO: {
    "encoder": ("encoder.",),
    "adapter": ("adapter.",),
    "decoder": ("model.",),
    "head": ("lm_head.",),
  },
  QWEN2_AUDIO: {
    "encoder": ("audio_tower.", "model.audio_tower."),
    "adapter": ("multi_modal_projector.", "model.multi_modal_projector."),
    "decoder": (
      "language_model.model.",
      "language_model.model.model.",
      "model.language_model.",
    ),
    "head": ("language_model.lm_head.", "lm_head."),
  },
}


@dataclasses.dataclass(frozen=True)
class Row:
  """One leaf of ours and the tensors that hold it.

  Attributes:
    part: "encoder", "adapter" or "decoder".
    leaf: our name, such as "q_LDNH".
    shape: of the leaf.
    axes: of one tensor, in our letters.
    pattern: the tensors' name, with {i} for the layer.
  """

  part: str
  leaf: str
  shape: tuple[int, ...]
  axes: str
  pattern: str

  @property
  def stem(self) -> str:
    return self.leaf.rsplit("_", 1)[0]

  @property
  def letters(self) -> str:
    return self.leaf.rsplit("_", 1)[-1]

  @property
  def stacked(self) -> bool:
    return "L" in self.letters

  @property
  def names(self) -> list[str]:
    """The tensors, layer by layer."""
    layers = self.block[0] if self.stacked else 1
    return [self.pattern.replace("{i}", str(i)) for i in range(layers)]

  @property
  def layers(self) -> list["Row"]:
    """A row of its own for each layer of a stack: "q_DNH"."""
    leaf = f"{self.stem}_{self.letters[1:]}"
    alone = functools.partial(
      dataclasses.replace, self, leaf=leaf, shape=self.shape[1:]
    )
    return [alone(pattern=name) for name in self.names]

  @functools.cached_property
  def block(self) -> tuple[int, ...]:
    """Shape of the tensors stacked on L, with no axis flattened."""
    sizes = dict(zip(self.letters, self.shape, strict=True))
    return tuple(sizes[letter] for letter in self._block_letters)

  @property
  def _block_letters(self) -> str:
    return "L" * self.stacked + self.axes.replace(" ", "")

  @functools.cached_property
  def order(self) -> tuple[int, ...]:
    """The axis of the block that each axis of the leaf is."""
    free: dict[str, list[int]] = {}
    for at, letter in enumerate(self._block_letters):
      free.setdefault(letter, []).append(at)
    return tuple(free[letter].pop() for letter in self.letters)

  @property
  def tensor_shape(self) -> tuple[int, ...]:
    sizes = dict(zip(self.letters, self.shape, strict=True))
    return tuple(
      math.prod(sizes[letter] for letter in group)
      for group in self.axes.split()
    )

  def ours(self, layer: int) -> str:
    """How a message names the leaf, or a layer of it."""
    at = f"[{layer}]" if self.stacked else ""
    return f"{self.part}/{self.leaf}{at}"


@functools.cache
def _table(family: str) -> dict[tuple[str, str], tuple[str, str, str]]:
  """(part, stem) -> (key of its prefix, axes, name after the prefix)."""
  column = (STEP_AUDIO, QWEN2_AUDIO).index(family)
  lines = [("encoder", "encoder", s, a, n[column]) for s, a, *n in ENCODER]
  lines += [("adapter", "adapter", *line) for line in ADAPTER[family]]
  lines += [("decoder", "decoder", *line) for line in DECODER]
  lines += [("decoder", "head", *HEAD)]
  table = {}
  for part, prefix, stem, axes, name in lines:
    name = name.replace("{b}", "blocks.{i}").replace("{l}", "layers.{i}")
    table[part, stem] = (prefix, axes, name)
  return table


def rows(config: audio_lm.Config, found: Collection[str] = ()) -> list[Row]:
  """Every leaf of the model with its tensors.

  Args:
    config: of the model.
    found: names that a checkpoint has; its spelling of the prefixes is taken.
      Without it, the published one.

  Raises:
    ValueError: a leaf that no table knows.
  """
  table, lines = _table(config.family), []
  for part, leaves in audio_lm.abstract(config).items():
    for leaf, value in leaves.items():
      stem = leaf.rsplit("_", 1)[0]
      if (part, stem) not in table:
        raise ValueError(
          f"{part}/{leaf}: no {config.family} checkpoint has this parameter"
        )
      lines.append((part, leaf, value.shape, *table[part, stem]))
  spelt = _spelling(config.family, lines, found)
  return [
    Row(part, leaf, shape, axes, spelt[prefix] + name)
    for part, leaf, shape, prefix, axes, name in lines
  ]


def _spelling(family, lines, found) -> dict[str, str]:
  """The prefix of each part under which most of its tensors are found."""
  names = {key: set() for key in PREFIXES[family]}
  for *_, key, _, name in lines:
    names[key].add(name.replace("{i}", "0"))
  return {
    key: max(choices, key=lambda p: sum(p + n in found for n in names[key]))
    for key, choices in PREFIXES[family].items()
  }


def expected(config: audio_lm.Config) -> dict[str, tuple[int, ...]]:
  """Shapes of a published checkpoint's tensors, by name."""
  return {name: row.tensor_shape for row in rows(config) for name in row.names}


def tied_head(config: audio_lm.Config, found: Collection[str]) -> Row | None:
  """The head that a tied checkpoint holds beside its embeddings, if it does."""
  if not config.decoder.tied:
    return None
  stem, axes, name = HEAD
  embed = next(row for row in rows(config) if row.stem == "embed")
  for prefix in PREFIXES[config.family][stem]:
    if prefix + name in found:
      return dataclasses.replace(embed, axes=axes, pattern=prefix + name)
  return None
