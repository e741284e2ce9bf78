"""``python -m recursivemix.cli``."""

import sys

from .dispatch import main

if __name__ == "__main__":
    sys.exit(main())
