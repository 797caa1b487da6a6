"""Strings to tokens and back: tokenizer, chat template, stop strings, UTF-8-safe streaming."""
