"""What the steps are handed: log-probabilities, entropies and values.

    scores(params, batch, **scaling) -> logp_BT, entropy_BT
    values(params, batch) -> v_BT

Both cover columns that the step's masks cover, whichever those are: all of
a row, or a response's alone.  Bind what stands behind the star.

Where the vocabulary is small all logits are made at once, of the columns that
are trained; where it is large they fit nowhere, and a head reads the states
in chunks.  There parameters rest in float32 and are cast once to `dtype`, so
that what moves between devices is of that size.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from mgrd_jax.losses import logprobs
from mgrd_jax.types import Batch, Rollout

Scores = tuple[Float[Array, "B T"], Float[Array, "B T"]]


def of_window(
  params, batch: Batch, *, apply: Callable, window: int, **scaling
) -> Scores:
  """Of rows, from the logits of what is trained.

  Args:
    apply: (params, batch, at_BS) -> logits_BSV of those columns.
    window: the most columns from a row's first trained token to its last; 0
      stands in all others.
  """
  at_BS = logprobs.predictors(
    batch.loss_mask_BT.argmax(1), window, batch.tokens_BT.shape[1]
  )
  logits_BSV = apply(params, batch, at_BS)
  return logprobs.of_rows(
    lambda next_BS: _both(logits_BSV, next_BS, scaling),
    batch.tokens_BT,
    at_BS=at_BS,
  )


def of_responses(
  params, rollout: Rollout, *, apply: Callable, **scaling
) -> Scores:
  """Of the responses alone, each prompt being run once.

  `apply` is (params, prompts, token_BT) -> logits_BTV, column t being of the
  choice of response token t.
  """
  logits_BTV = apply(params, rollout.prompts, rollout.token_BT)
  return _both(logits_BTV, rollout.token_BT, scaling)


def of_rows(
  params, batch: Batch, *, states: Callable, score: Callable, dtype, **scaling
) -> Scores:
  """Of whole rows, packed or not, with no logits of all of them.

  The first column of an example describes nothing; no loss reads it.

  Args:
    states: (params, batch) -> (hidden_BTD, head).
    score: as `logprobs.head_logprobs`, its chunks bound.
  """
  hidden_BTD, head = states(cast(params, dtype), batch)
  return logprobs.of_rows(
    lambda next_BT: score(hidden_BTD, head, next_BT, **scaling),
    batch.tokens_BT,
  )


def values_of_responses(
  params, rollout: Rollout, *, values: Callable
) -> Float[Array, "B T"]:
  """The critic's value before each token of the responses.

  `values` is (params, prompts, token_BT) -> v_BT.
  """
  return values(params, rollout.prompts, rollout.token_BT)


def values_of_rows(
  params, batch: Batch, *, values: Callable, dtype
) -> Float[Array, "B T"]:
  """The critic's value of the state before each token; 0 in column 0.

  `values` is (params, batch) -> v_BT of the states at each column.
  """
  return logprobs.shifted(values(cast(params, dtype), batch))


def cast(params, dtype):
  """Parameters as they compute; a value head stays as it is."""
  return {
    name: part
    if name == "value"
    else jax.tree.map(lambda x: x.astype(dtype), part)
    for name, part in params.items()
  }


def _both(logits_BTV, token_BT, scaling: dict) -> Scores:
  return (
    logprobs.choice_logprobs(logits_BTV, token_BT, **scaling),
    logprobs.entropy(logits_BTV, **scaling),
  )
