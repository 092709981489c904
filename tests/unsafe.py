"""What text may not hold once it is shown."""

import re


def control_characters(text: str) -> list[str]:
    """What could command a terminal or turn the direction of a page."""
    return re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
