"""The command line of a tool with flags of its own; an error is one line."""

import argparse


class Parser(argparse.ArgumentParser):
  """Flags are written out, help is the module's, an error is one line."""

  def __init__(self, **kwargs):
    kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
    super().__init__(allow_abbrev=False, **kwargs)

  def error(self, message):
    self.exit(2, f"{self.prog}: {message} (--help lists all)\n")
