"""Quantum work that may wait for hours: asked for once, paid for once, and found again after a crash."""
