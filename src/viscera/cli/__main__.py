"""`python -m viscera.cli` is the command `viscera`."""

import sys

from viscera.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
