"""Chat models that need no engine in this process: an OpenAI-compatible endpoint and a script."""
