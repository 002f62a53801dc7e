"""The one error that users are meant to read."""

from __future__ import annotations


class BergerError(Exception):
    """A request that cannot be done.

    The message is one sentence for a user: what is wrong, with which file, and what to do.
    The commands print it without a traceback and exit with status 2; any other exception is a
    fault of ours and exits with status 1.
    """
