"""The engine for transformers models: the reference."""
