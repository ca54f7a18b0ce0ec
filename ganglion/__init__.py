"""The roof: the version, and the command line in `ganglion.command_line`.

Only what the chosen subcommand needs is imported, so that `inspect`, `bench` and `run` work on a robot without torch.
"""

from ganglion.command_line import main

__all__ = ["main"]
__version__ = "0.1.0"
