"""What makes transformers models fast on a processor."""
