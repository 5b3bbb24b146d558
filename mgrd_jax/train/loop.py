"""The host loop: steps, metrics, checkpoints, progress; resumes itself.

    for step in start .. steps:  state, metrics = step_fn(state, data(step))
"""

import contextlib
import pathlib
from collections.abc import Callable

from mgrd_jax.train import checkpoint, metrics


def run(
  step_fn: Callable,
  state,
  data: Callable[[int], object],
  *,
  steps: int,
  folder,
  save_every: int,
  log_every: int = 1,
  log: Callable[..., metrics.Writer] = metrics.jsonl,
  progress: Callable[[int, int, dict], None] = lambda done, total, m: None,
):
  """Runs `step_fn` from the newest checkpoint in `folder` to `steps`.

  Args:
    step_fn: (state, batch) -> (state, metrics); the state may be donated.
    state: the state at step 0, also the structure to restore into.
    data: step -> batch; a function of the step alone.
    steps: total steps.
    folder: holds metrics.jsonl and step_* checkpoints.
    save_every: steps between checkpoints; the last step is not saved here,
      because the stage that owns the loop saves its result.
    log_every: steps between lines of metrics.
    log: (folder, first step) -> where metrics go; `writers.chosen` gives more
      than metrics.jsonl.

  Returns:
    The state after `steps` steps.

  Raises:
    NonFiniteError: a logged metric is NaN or infinite.
  """
  folder = pathlib.Path(folder)
  start, restored = checkpoint.restore_latest(folder, state)
  state = state if restored is None else restored
  with contextlib.closing(log(folder, start)) as writer:
    for step in range(start, steps):
      state, measured = step_fn(state, data(step))
      last = step + 1 == steps
      if step % log_every == 0 or last:
        measured = metrics.to_floats(measured)
        writer.write(step, measured)
        progress(step + 1, steps, measured)
      if (step + 1) % save_every == 0 and not last:
        checkpoint.save_step(folder, step + 1, state)
        writer.flush()
  return state
