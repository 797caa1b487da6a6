"""Engines: the protocol they meet, and the machines that decode."""
