"""Numbers as the paper prints them: value, unit and how many digits are shown."""

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

NOT_PRINTED = "-"
UNITS = {"": Decimal(1), "M": Decimal(10) ** 6, "G": Decimal(10) ** 9, "Gi": Decimal(2) ** 30}
NUMBER = re.compile(r"(?P<number>\d[\d,]*(?:\.\d+)?)(?P<unit>Gi|G|M|)")
PERCENT = ("top1", "top5", "real", "box_ap", "box_ap50", "box_ap75", "mask_ap", "miou")
COSTS = ("params", "flops")
WORDS = ("text", "property")  # properties are words that can be measured
QUANTITIES = (*COSTS, *PERCENT, "throughput", *WORDS)


@dataclass(frozen=True)
class Printed:
    """A printed number: its text, its value in plain units, the unit and the number of decimals that it shows."""

    text: str
    value: Decimal
    unit: Decimal
    decimals: int

    def agrees(self, value: float) -> bool:
        """Whether `value` (plain units) prints as this text, by rounding half up to the printed digit."""
        step = Decimal(1).scaleb(-self.decimals)
        rounded = (Decimal(str(value)) / self.unit).quantize(step, ROUND_HALF_UP)
        return rounded * self.unit == self.value


def parse_printed(text: str, quantity: str, flops_unit: str = "G") -> Printed | None:
    """Parse a cell of the paper; None for a cell without a number.

    Args:
        text: as printed, for example "28M", "4.5G", "81.3", "26,132,824" or "-".
        quantity: one of QUANTITIES.
        flops_unit: "Gi" where the paper prints "G" but counts in units of 2^30.

    Raises:
        ValueError: the text is no number of that quantity.
    """
    if quantity in WORDS or text == NOT_PRINTED:
        return None
    match = NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no number such as '28M', '4.5G' or '81.3' (a cell without a number is '-')")
    unit = match["unit"]
    allowed = {"params": ("", "M"), "flops": ("G", "Gi")}.get(quantity, ("",))
    if unit not in allowed:
        wanted = " or ".join(name or "none" for name in allowed)
        raise ValueError(f"{text!r} has the unit {unit or 'none'}; {quantity} takes {wanted}")
    number = Decimal(match["number"].replace(",", ""))
    if quantity in PERCENT and not 0 <= number <= 100:
        raise ValueError(f"{text!r} is no percentage")
    factor = UNITS[flops_unit if unit == "G" else unit]
    exponent = number.as_tuple().exponent
    return Printed(text, number * factor, factor, -int(exponent))
