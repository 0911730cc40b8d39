"""A server in OpenAI's manner over the engine: strangers are checked, bounded, answered."""
