"""The command line of a tool with flags of its own; an error is one line."""

import argparse
import errno
import logging
import sys
import traceback

from etils import epath

from mgrd_jax import paths

# They log, with a traceback, what they raise as well.
_LOUD = ("absl", "gcsfs")


class Parser(argparse.ArgumentParser):
  """Flags are written out, help is the module's, an error is one line."""

  def __init__(self, **kwargs):
    kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
    super().__init__(allow_abbrev=False, **kwargs)

  def error(self, message):
    self.exit(2, f"{self.prog}: {message} (--help lists all)\n")


def exhausted(error: BaseException | None) -> str:
  """What was said when memory ran out, one line; "" of another error.

  Of the host's or a device's; also where it is the cause of the error.
  """
  while error is not None:
    if (
      isinstance(error, MemoryError)
      or getattr(error, "errno", None) == errno.ENOMEM
      or "RESOURCE_EXHAUSTED" in str(error)
    ):
      return f"out of memory: {one_line(error)}"
    error = error.__cause__
  return ""


def of_store(error: BaseException) -> str:
  """What went wrong with gs:// or the like, one line; "" of another error.

  What reads it is loaded late and has kinds of errors of its own, so it is
  known by the path that epath was asked for.
  """
  for frame, _ in traceback.walk_tb(error.__traceback__):
    if frame.f_globals.get("__name__") != epath.Path("/").__module__:
      continue
    asked = (v for v in frame.f_locals.values() if isinstance(v, epath.Path))
    for path in filter(paths.is_remote, asked):
      said = " ".join(f"{path}: {type(error).__name__}: {error}".split())
      missing = isinstance(error, ImportError)
      return f"{said}; pip install -e '.[gcs]'" if missing else said
  return ""


def hush() -> None:
  """An error is told once, by who ends the process for it."""
  for name in _LOUD:
    logging.getLogger(name).setLevel(logging.CRITICAL)
  sys.unraisablehook = _unraisable


def _unraisable(what) -> None:
  # Of many arrays that cannot be written, the first one's error is raised; the
  # others find that nobody waits for them.
  if str(what.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(what)


def one_line(error: BaseException) -> str:
  """The first line of an error, which has a text in any case."""
  # XLA lists its buffers behind it.
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0].rstrip(".")
