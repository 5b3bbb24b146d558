"""Prompts x G -> host-side samples, and samples -> Rollouts for training.

    items --batches--> engine.generate --> Sample (item, g) --pack--> Rollout
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from mgrd_jax.types import Batch, Rollout


@dataclasses.dataclass(frozen=True)
class Sample:
  """One response: its ids, the sampler's log-probabilities, its ending."""

  tokens: np.ndarray
  logp: np.ndarray
  stopped: bool


def run(
  items: Sequence,
  generate: Callable,
  collate: Callable,
  *,
  rows: int,
  samples: int,
  request_ids: Sequence[int] | None = None,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Sample]]:
  """Samples G responses of each item, `rows` prompts at a time.

  Args:
    items: prompts.
    generate: (batch, request_B) -> (token_BT, logp_BT, len_B, stopped_B),
      prompt-major over rows * samples.
    collate: (items, rows) -> Batch; missing rows are empty.
    rows: prompts a call; the last call is filled with empty rows.
    samples: G, as `generate` was built.
    request_ids: names the draws of an item; its index by default.

  Returns:
    For each item its G samples.
  """
  ids = list(range(len(items)) if request_ids is None else request_ids)
  out: list[list[Sample]] = []
  for start in range(0, len(items), rows):
    part = items[start : start + rows]
    request_B = np.zeros(rows, np.int32)
    request_B[: len(part)] = ids[start : start + len(part)]
    # An empty row would never stop; a copy of the first one costs nothing.
    padded = list(part) + [part[0]] * (rows - len(part))
    drawn = generate(collate(padded), request_B)
    token_BT, logp_BT, len_B, stopped_B = map(np.asarray, drawn)
    for b in range(len(part)):
      out.append(
        [
          Sample(
            token_BT[at, : len_B[at]].copy(),
            logp_BT[at, : len_B[at]].copy(),
            bool(stopped_B[at]),
          )
          for at in range(b * samples, (b + 1) * samples)
        ]
      )
    progress(len(out), len(items))
  return out


def pack(
  prompts: Batch,
  samples: Sequence[Sample],
  example_B: np.ndarray,
  *,
  time: int,
) -> Rollout:
  """Prompts and their responses, ids as sampled (trap 14).

  Args:
    prompts: a Batch of the prompts, one row each; it stays as it is.
    samples: the responses, prompt-major, as many to each prompt.
    example_B: index of each response's example.
    time: columns of a response.

  Raises:
    ValueError: a response does not fit, or it holds an audio placeholder of
      its prompt (the policy generated one).
  """
  rows = len(samples)
  token_BT = np.zeros((rows, time), np.int32)
  logp_BT = np.zeros((rows, time), np.float32)
  response_len_B = np.array([len(s.tokens) for s in samples], np.int32)
  prompt_tokens_BT = np.asarray(prompts.tokens_BT)
  heard_BT = np.asarray(prompts.audio_index_BT) >= 0
  count = rows // len(prompt_tokens_BT)
  for b, (sample, length) in enumerate(
    zip(samples, response_len_B, strict=True)
  ):
    if length > time:
      raise ValueError(
        f"a response of {length} tokens does not fit {time} columns"
      )
    placeholders = prompt_tokens_BT[b // count, heard_BT[b // count]]
    if np.isin(sample.tokens, placeholders).any():
      raise ValueError("the policy generated an audio placeholder; ban it")
    token_BT[b, :length] = sample.tokens
    logp_BT[b, :length] = sample.logp
  return Rollout(
    prompts=prompts,
    token_BT=token_BT,
    logp_BT=logp_BT,
    response_len_B=response_len_B,
    stopped_B=np.array([s.stopped for s in samples]),
    example_B=np.asarray(example_B, np.int32),
  )
