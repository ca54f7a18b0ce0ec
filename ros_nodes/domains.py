"""ROS domains of this host, each with one holder at a time."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import GanglionError

_LARGEST = 100  # Linux hands out the ports of domains beyond 101
_turns = itertools.count(os.getpid())


@contextmanager
def own_domain() -> Iterator[int]:
    """A ROS domain from 1 to 100 that nobody else on this host gets from here until the end.

    Raises GanglionError if all are held.
    """
    for turn in itertools.islice(_turns, _LARGEST):
        domain = 1 + turn % _LARGEST
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0ganglion_domain_{domain}")  # not a file: it goes with the process
            except OSError:
                continue
            yield domain
            return
    raise GanglionError(f"all ROS domains from 1 to {_LARGEST} are held by other sessions on this host; end some")
