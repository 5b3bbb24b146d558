"""Several processes that run one program: who writes, and what all decide.

    same host code, same data --each its share of the devices--> one array

Every process runs the same lines in the same order.  Process 0 alone writes
to the run's folder; what depends on a file there is process 0's to see.
Alone, each of these costs nothing.
"""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils


def count() -> int:
  """How many there are."""
  # The plain question would begin a backend, in every worker of a pool too.
  return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
  """Which of them this one is."""
  return jax.process_index() if count() > 1 else 0


def writes() -> bool:
  """Whether this one writes what all of them have made."""
  return index() == 0


def agreed(value: int) -> int:
  """What process 0 says of it; what that has written before is there by then.

  All must ask, in the same order.
  """
  if count() == 1:
    return value
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def any_of(told: bool) -> bool:
  """Whether any of them says so."""
  if count() == 1:
    return told
  return bool(np.any(multihost_utils.process_allgather(np.bool_(told))))


def wait() -> None:
  """Until all have come here, and so have done what stands before."""
  agreed(0)


def in_turn(make: Callable):
  """What `make` returns, of process 0 first and then of the others.

  What the first has written, the others find, where they share a disk.
  """
  if not writes():
    wait()
  made = make()
  if writes():
    wait()
  return made
