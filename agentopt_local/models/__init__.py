"""Chat models that need no engine of their own: an OpenAI-compatible endpoint and a script."""
