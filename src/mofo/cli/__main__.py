"""`python -m mofo.cli`: the command line without its script."""

import sys

from mofo.cli import main

sys.exit(main())
