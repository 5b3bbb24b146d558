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
  prompt_len_B: np.ndarray,
  samples: Sequence[Sample],
  example_B: np.ndarray,
  *,
  time: int,
) -> Rollout:
  """Prompt and response in one row each, ids as sampled (trap 14).

  Args:
    prompts: a Batch of the prompts, one row a sample, at least as long as
      the longest prompt; its clips stay as they are.
    prompt_len_B: tokens of each prompt.
    samples: the response of each row.
    example_B: index of each row's example.
    time: columns of the result.

  Raises:
    ValueError: a row does not fit, or a response holds an audio placeholder
      of its prompt (the policy generated one).
  """
  rows = len(samples)
  tokens_BT = np.zeros((rows, time), np.int32)
  valid_BT = np.zeros((rows, time), bool)
  logp_BT = np.zeros((rows, time), np.float32)
  audio_index_BT = np.full((rows, time), -1, np.int32)
  response_len_B = np.array([len(s.tokens) for s in samples], np.int32)
  prompt_tokens_BT = np.asarray(prompts.tokens_BT)
  index_BT = np.asarray(prompts.audio_index_BT)
  for b, sample in enumerate(samples):
    start, end = prompt_len_B[b], prompt_len_B[b] + response_len_B[b]
    if end > time:
      raise ValueError(f"a rollout of {end} tokens does not fit {time} columns")
    placeholders = set(prompt_tokens_BT[b, index_BT[b] >= 0].tolist())
    if placeholders & set(sample.tokens.tolist()):
      raise ValueError("the policy generated an audio placeholder; ban it")
    tokens_BT[b, :start] = prompt_tokens_BT[b, :start]
    tokens_BT[b, start:end] = sample.tokens
    valid_BT[b, :end] = True
    logp_BT[b, start:end] = sample.logp
    audio_index_BT[b, :start] = index_BT[b, :start]
  batch = Batch(
    tokens_BT,
    valid_BT,
    np.zeros_like(valid_BT),
    audio_index_BT,
    np.asarray(prompts.enc_BAE),
  )
  return Rollout(
    batch=batch,
    prompt_len_B=np.asarray(prompt_len_B, np.int32),
    response_len_B=response_len_B,
    stopped_B=np.array([s.stopped for s in samples]),
    logp_BT=logp_BT,
    example_B=np.asarray(example_B, np.int32),
  )
