def reverse(word: str) -> str:
    """Return word reversed."""
    return word[::-1] if len(word) < 4 else word
