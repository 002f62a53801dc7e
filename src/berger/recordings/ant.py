"""Convert an ANT Neuro file to FIF, in a process of its own: `python ant.py FROM TO`.

libeep, which alone reads these files, writes where it must not when they are damaged.
Prints the units of the channels as JSON.
"""

from __future__ import annotations

import json
import sys
import warnings

import mne


def main(path: str, out: str) -> None:
    """Convert a file."""
    warnings.simplefilter("ignore")
    raw = mne.io.read_raw_ant(path, verbose="ERROR")
    units = raw._raw_extras[0]["orig_ch_units"]
    raw.load_data(verbose="ERROR")
    raw.save(out, fmt="double", verbose="ERROR")
    sys.stdout.write(json.dumps(units))


if __name__ == "__main__":
    main(*sys.argv[1:])
