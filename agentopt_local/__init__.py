"""Train LLM agents offline by learning their functions instead of the model's weights."""

__version__ = "0.1.0"
