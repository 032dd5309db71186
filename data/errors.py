"""The errors of this package. Each message is one line that a user can act on."""

from models.errors import UserError


class CorruptImageError(UserError):
    """One image cannot be read or decoded. The message names the file."""


class WorkerError(UserError):
    """A loader worker died or stopped answering. The message names the worker."""
