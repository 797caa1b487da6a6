"""Engines: the protocol, the torch engine, and the worker that drives one for all requests."""
