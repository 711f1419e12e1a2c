"""`python -m moorline`: the same as the command `moorline`."""

import sys

from moorline.gateway.run.cli import main

if __name__ == "__main__":
    sys.exit(main())
