"""How far a training's own numbers can be trusted, measured where the truth is known."""
