"""``python -m berger``, which is how ``torchrun -m berger`` starts the commands."""

from __future__ import annotations

import sys

from berger.cli import main

if __name__ == "__main__":
    sys.argv[0] = "berger"  # what a run's record calls the command
    main()
