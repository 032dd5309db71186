"""What is wrong with what a user gave, said in one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """What the user gave cannot be used; one line names the field, file or key and what would be right."""


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name closest to ``name``, or None when none is close."""
    found = get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return found[0] if found else None


def hint(name: str, valid: Iterable[str], prefix: str = "") -> str:
    """A clause that names the nearest valid name, or lists what is valid when none is close."""
    names = sorted(valid)
    close = nearest(name, names)
    if close is not None:
        return f"the nearest valid one is {prefix}{close}"
    return "valid are " + ", ".join(names[:40]) if names else "none is valid here"
