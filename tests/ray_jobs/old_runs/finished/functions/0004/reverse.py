def reverse(word: str) -> str:
    """Return word reversed."""
    return word[::-1]
