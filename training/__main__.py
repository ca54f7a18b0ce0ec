"""`torchrun --nproc-per-node N -m training TASK …`: `ganglion train TASK …` with N learners."""

import sys

from ganglion import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
