"""What is written and hashed in one way in the whole application."""

import hashlib
from collections.abc import Iterable


def sha256_of_strings(strings: Iterable[str]) -> str:
    """Hexadecimal SHA-256 of a sequence of strings that no other sequence shares."""
    digest = hashlib.sha256()
    for string in strings:
        data = string.encode("utf-8", "surrogatepass")
        # With its length before each, ["ab", "c"] and ["a", "bc"] differ.
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
