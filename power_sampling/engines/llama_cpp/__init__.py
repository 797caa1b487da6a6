"""GGUF models in their own bits, by llama.cpp."""
