"""The host loop: steps, metrics, checkpoints, progress; resumes itself.

    for step in start .. steps:  state, metrics = step_fn(state, data(step))

Told to stop (SIGTERM, as a machine is that is taken away), it ends its step,
saves and leaves; the same command goes on from there.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

from etils import epath

from mgrd_jax import processes
from mgrd_jax.train import checkpoint, metrics

STOPPED = 128 + signal.SIGTERM  # the exit status of who was told to stop


@contextlib.contextmanager
def _told_to_stop() -> Iterator[Callable[[], bool]]:
  """Whether SIGTERM has come since; it ends nothing meanwhile.

  Off the main thread no signal can be caught, and it is never.
  """
  if threading.current_thread() is not threading.main_thread():
    yield lambda: False
    return
  told = threading.Event()
  before = signal.signal(signal.SIGTERM, lambda *_: told.set())
  try:
    yield told.is_set
  finally:
    signal.signal(signal.SIGTERM, before)


def run(
  step_fn: Callable,
  state,
  data: Callable[[int], object],
  *,
  steps: int,
  folder,
  save_every: int,
  log_every: int = 1,
  keep: int = 1,
  best: str = "",
  log: Callable[..., metrics.Writer] = metrics.jsonl,
  rate: Callable[[dict, float], dict] = lambda m, seconds: {},
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
    keep: how many of the newest checkpoints stay.
    best: the metric whose lowest value keeps its checkpoint as well.
    rate: (metrics, seconds a step) -> more metrics, but of the steps before
      the first line, which a compilation is among.
    log: (folder, first step) -> where metrics go; `writers.chosen` gives more
      than metrics.jsonl.

  Returns:
    The state after `steps` steps.

  Raises:
    NonFiniteError: a logged metric is NaN or infinite.
    CheckpointError: a checkpoint cannot be written, or read.
    SystemExit: it was told to stop, and has saved.
  """
  folder = epath.Path(folder)
  start, restored = checkpoint.restore_latest(folder, state)
  state = state if restored is None else restored
  saved = checkpoint.Steps(folder, keep=keep)
  score = since = None
  with (
    contextlib.closing(log(folder, start)) as writer,
    contextlib.closing(saved),
    _told_to_stop() as told,
  ):
    for step in range(start, steps):
      state, measured = step_fn(state, data(step))
      done, last = step + 1, step + 1 == steps
      if step % log_every == 0 or last:
        measured = metrics.to_floats(measured)
        now = done, time.monotonic()
        if since:
          measured |= rate(measured, (now[1] - since[1]) / (now[0] - since[0]))
        since = now
        writer.write(step, measured)
        score = measured.get(best, score)
        progress(done, steps, measured)
      saved.check()
      stop = processes.any_of(told())
      if (done % save_every == 0 and not last) or stop:
        # Lines first: whoever goes on from here has no others.
        writer.flush()
        saved.save(done, state, score)
        if stop:
          raise SystemExit(STOPPED)
  return state
