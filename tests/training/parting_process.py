"""One of the processes of test_learners: a signal ends all of them, and the first one has something left to save.

torchrun --nproc-per-node 2 -m tests.training.parting_process
"""

from __future__ import annotations

import signal
import sys
import time

from training import learners
from training.interrupts import Interrupted

if __name__ == "__main__":
    with learners.joined():
        learners.everyone(None)
        if learners.rank() == 0:
            time.sleep(2.0)
            sys.stdout.write("saved\n")
            sys.stdout.flush()
        raise Interrupted(signal.SIGTERM)
