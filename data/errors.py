"""The errors of this package. Each message is one line that a user can act on."""


class DataError(Exception):
    """Bad input: a wrong root, no images, labels that do not fit. Entry points end with exit status 2."""


class CorruptImageError(DataError):
    """One image cannot be read or decoded. The message names the file."""


class WorkerError(DataError):
    """A loader worker died or stopped answering. The message names the worker."""
