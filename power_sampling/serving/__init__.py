"""Requests, their draws, and the thread that drives an engine for all of them."""
