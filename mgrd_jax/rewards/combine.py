"""From a response's parts to its reward, with the parts kept.

    R_audio = 0.8 · acc + 0.2 · present,   R_text = acc,   0 if truncated

Accuracy is read off `acc` and never off the reward: right without thinking
(0.8) is right, wrong with thinking (0.2) is not.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from mgrd_jax.rewards import answers, format

PARTS = ("acc", "present", "stopped", "closed", "scorable", "reward")


def audio_reward(
  acc_B: Shaped[np.ndarray, "*B"],
  present_B: Shaped[np.ndarray, "*B"],
  stopped_B: Shaped[np.ndarray, "*B"],
  *,
  acc_weight: float = 0.8,
  format_weight: float = 0.2,
) -> Float[np.ndarray, "*B"]:
  """Weighted accuracy and presence of reasoning; 0 for a truncated response.

    R = stopped · (acc_weight · acc + format_weight · present)

  Step-Audio-R1, https://arxiv.org/abs/2511.15848, eq. 7.
  """
  acc_B, present_B = np.asarray(acc_B, float), np.asarray(present_B, float)
  reward_B = acc_weight * acc_B + format_weight * present_B
  return np.asarray(np.asarray(stopped_B, float) * reward_B, np.float32)


def text_reward(
  acc_B: Shaped[np.ndarray, "*B"], stopped_B: Shaped[np.ndarray, "*B"]
) -> Float[np.ndarray, "*B"]:
  """Accuracy alone; 0 for a truncated response.  Same source, eq. 6."""
  return audio_reward(
    acc_B, acc_B, stopped_B, acc_weight=1.0, format_weight=0.0
  )


def score_response(
  text: str,
  stopped: bool,
  *,
  gold: object,
  answer_type: str,
  options: Sequence[str] = (),
  has_audio: bool = True,
  acc_weight: float = 0.8,
  format_weight: float = 0.2,
) -> dict[str, float]:
  """Parts and reward of one response, each a float, named by `PARTS`.

  text: the full text, prefilled "<think>\\n" included, up to and without the
    end-of-turn token, decoded with special tokens kept.
  stopped: whether the model itself ended its turn.
  acc: 1 if it stopped, closed its think block, and its *reply* states the
    gold answer; what the chain says does not count.
  scorable: 0 if the record cannot decide; drop such a row from the loss.
  The reward is `audio_reward` where `has_audio`, else `text_reward`; an
  unscorable row's is 0.  Raises ValueError for an unknown `answer_type`.
  """
  parsed = format.parse(text)
  verdict = answers.match(
    parsed.reply, gold, answer_type=answer_type, options=options
  )
  scorable = verdict is not None
  acc = bool(verdict) and parsed.closed and stopped
  acc_B, present_B, stopped_B = map(
    np.asarray, (acc, parsed.present, stopped)
  )
  if has_audio:
    reward = audio_reward(
      acc_B,
      present_B,
      stopped_B,
      acc_weight=acc_weight,
      format_weight=format_weight,
    )
  else:
    reward = text_reward(acc_B, stopped_B)
  return {
    "acc": float(acc),
    "present": float(parsed.present),
    "stopped": float(stopped),
    "closed": float(parsed.closed),
    "scorable": float(scorable),
    "reward": float(reward) if scorable else 0.0,
  }


def stack(
  scores: Sequence[dict[str, float]],
) -> dict[str, Float[np.ndarray, " B"]]:
  """Scores of B responses as one array a part."""
  return {
    part: np.array([score[part] for score in scores], np.float32)
    for part in PARTS
  }
