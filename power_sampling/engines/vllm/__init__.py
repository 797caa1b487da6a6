"""Served engine: vLLM servers behind their OpenAI-compatible completions, one or several, no torch in this process."""
