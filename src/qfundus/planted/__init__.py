"""Invented patients with marked names travel with each run, and every place that could hold a name is searched."""
