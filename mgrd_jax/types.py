"""The alphabet of axes, and the pytrees that pass between packages.

One letter, one meaning, everywhere: array names (`logits_BTV`), einsum
strings, annotations (`Float[Array, "B T V"]`), parameter names (`q_LDNH`)
and the rows of the sharding table.  Fields of the pytrees below carry their
axes in their names; they are not annotated, because a tree map may put a
shape, a sharding or a gradient in an array's place.

| B sequences, clips | G samples per prompt | T query/token time |
| S key/value time   | L layers             | D decoder width    |
| F ffn width        | N query heads        | K kv heads         |
| H head dim         | V vocabulary         | W wave samples     |
| R mel frames       | M mel bins           | A audio frames     |
| E encoder width    |                      |                    |
"""

import dataclasses
from typing import Any

import jax

ALPHABET = frozenset("BGTSLDFNKHVWRMAE")


def _pytree(cls):
  return jax.tree_util.register_dataclass(
    dataclasses.dataclass(frozen=True)(cls)
  )


@_pytree
class Batch:
  """Rows of one shape, left-aligned and padded right.

  Column t of every per-token array describes `tokens_BT[:, t]`.
  `enc_BAE` holds the frozen encoder's states (25 Hz) of the batch's clips,
  clip by clip and row by row; its leading axis counts clips, the same number
  to each row.  `audio_index_BT` is the flat index (clip * A' + frame) into the
  adapter's 12.5 Hz output of the row's own clips that stands at a position, or
  -1 where the position is text.  So rows may be cut apart, whatever they hear.
  A batch without audio has zero clips.

  Where several examples are packed into a row, `segment_BT` numbers their
  columns from 1, 0 being padding; None is one example a row.
  """

  tokens_BT: Any
  valid_BT: Any
  loss_mask_BT: Any
  audio_index_BT: Any
  enc_BAE: Any
  segment_BT: Any = None

  @property
  def rows(self) -> int:
    return len(self.tokens_BT)


@_pytree
class Rollout:
  """Sampled responses, and each prompt once.

  `prompts` has a row per prompt and all other arrays a row per response, the
  same number to each prompt, prompt-major.  Column t of `token_BT` is the
  response's token t; it has `response_len_B` of them, the end-of-turn token
  among them when `stopped_B`, and 0 behind.  `logp_BT` is the sampler's own
  log-probability of each, 0 elsewhere.  `example_B` is the index of the row's
  example: rows are grouped by it, never by text.
  """

  prompts: Batch
  token_BT: Any
  logp_BT: Any
  response_len_B: Any
  stopped_B: Any
  example_B: Any

  @property
  def rows(self) -> int:
    """Of prompts: every other array has some beside each."""
    return self.prompts.rows


@_pytree
class Scored:
  """A rollout with the parts of its reward, each kept as an array.

  `scorable_B` is False where the verifier could not decide; such rows
  leave the loss and are counted.  `audio_B` marks rows that carry audio.
  """

  rollout: Rollout
  acc_B: Any
  present_B: Any
  scorable_B: Any
  audio_B: Any
  reward_B: Any


@_pytree
class TrainState:
  """What training changes: nothing more, nothing less."""

  step: Any
  params: Any
  opt_state: Any
