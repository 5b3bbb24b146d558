"""Where else metrics go: TensorBoard and Weights & Biases, when asked.

  step, {name: float} ─┬─ metrics.jsonl, always
                       ├─ TensorBoard        [tensorboard]
                       └─ Weights & Biases   [wandb]
"""

import functools
from collections.abc import Callable, Sequence

from etils import epath

from mgrd_jax.train import metrics as metrics_lib
from mgrd_jax.train.metrics import Writer


class TensorBoard:
  """Scalars in an event file in `folder`; what lies past `start` is hidden.

  Raises:
    ImportError: the extra [tensorboard] is not installed.
  """

  def __init__(self, folder, *, start: int = 0):
    try:
      from tensorboardX import SummaryWriter
    except ImportError:
      raise _missing("tensorboard") from None
    self._events = SummaryWriter(str(folder), purge_step=start or None)

  def write(self, step: int, metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
      self._events.add_scalar(name, value, step)

  def flush(self) -> None:
    self._events.flush()

  def close(self) -> None:
    self._events.close()


class WandB:
  """A run of Weights & Biases, the same one whenever `folder` goes on.

  Its x axis is our step: after a kill steps come again, and W&B's own counter
  would drop them.

  Raises:
    ImportError: the extra [wandb] is not installed.
  """

  def __init__(self, folder, *, settings: dict):
    try:
      import wandb
    except ImportError:
      raise _missing("wandb") from None
    folder = epath.Path(folder)
    kept = folder / "wandb_id.txt"
    self._run = wandb.init(
      project="mgrd_jax",
      name="/".join(folder.parts[-2:]),
      id=kept.read_text() if kept.exists() else None,
      dir=None if "://" in str(folder) else str(folder),
      resume="allow",
      config=settings,
    )
    kept.write_text(self._run.id)
    self._run.define_metric("*", step_metric="step")

  def write(self, step: int, metrics: dict[str, float]) -> None:
    self._run.log({"step": step} | metrics)

  def flush(self) -> None:
    """W&B sends by itself."""

  def close(self) -> None:
    self._run.finish()


class All:
  """Several writers as one; the first refuses for all."""

  def __init__(self, writers: Sequence[Writer]):
    self._writers = tuple(writers)

  def write(self, step: int, metrics: dict[str, float]) -> None:
    for writer in self._writers:
      writer.write(step, metrics)

  def flush(self) -> None:
    for writer in self._writers:
      writer.flush()

  def close(self) -> None:
    for writer in self._writers:
      writer.close()


class Silent:
  """Writes nothing, but stops where the process that writes does."""

  def write(self, step: int, metrics: dict[str, float]) -> None:
    metrics_lib.check_finite(step, metrics)

  def flush(self) -> None:
    """There is nothing."""

  def close(self) -> None:
    """There is nothing."""


def chosen(
  *,
  process: int = 0,
  tensorboard: bool = False,
  wandb: bool = False,
  settings: dict | None = None,
) -> Callable[..., Writer]:
  """(folder, start) → Writer, as `loop.run` takes it.

  Args:
    process: index of this process; only process 0 writes.
    tensorboard: write TensorBoard's event files too.
    wandb: log to Weights & Biases too.
    settings: what W&B shows as the run's config.
  """
  return functools.partial(
    _opened,
    process=process,
    tensorboard=tensorboard,
    wandb=wandb,
    settings=settings or {},
  )


def _opened(folder, start: int, *, process, tensorboard, wandb, settings):
  if process:
    return Silent()
  writers: list[Writer] = [metrics_lib.jsonl(folder, start)]
  if tensorboard:
    writers.append(TensorBoard(folder, start=start))
  if wandb:
    writers.append(WandB(folder, settings=settings))
  return All(writers)


def _missing(extra: str) -> ImportError:
  return ImportError(
    f"config.log.{extra} needs the extra [{extra}]: pip install -e "
    f"'.[{extra}]', or leave it out"
  )
