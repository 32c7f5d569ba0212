def double(x: int) -> str:
    """Return twice x."""
    return str(2 * x)
