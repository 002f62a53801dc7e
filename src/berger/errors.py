"""The one error that users are meant to read."""

from __future__ import annotations


class BergerError(Exception):
    """A request that cannot be done.

    The message is one sentence for a user: what is wrong, with which file, and what to do.
    The commands print it without a traceback and exit with status 2; any other exception is a
    fault of ours and exits with status 1.
    """


class StoppedError(SystemExit):
    """Work that was told to stop, by a scheduler or a machine that goes down, and can be continued.

    The commands exit with status 75 ("temporary failure; try again"). No failure of a part: it
    ends what is around it too.
    """

    EXIT_STATUS = 75

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
