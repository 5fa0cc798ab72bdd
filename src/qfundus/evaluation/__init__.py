"""Evaluation: metrics with confidence intervals, the gate, and where on the disc grades come from."""
