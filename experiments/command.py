"""The command line of a tool with flags of its own; an error is one line."""

import argparse
import errno


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


def one_line(error: BaseException) -> str:
  """The first line of an error, which has a text in any case."""
  # XLA lists its buffers behind it.
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0].rstrip(".")
