"""`python -m ganglion`."""

import sys

from ganglion import main

sys.exit(main())
