"""A plugin for vLLM, experimental: it has never run inside vLLM (docs/interop.md says what was)."""
