"""Where the optional reference data lies: beside the checkout, and not in a bare clone."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared"
