"""Recipes: what to train and how to judge it, read from YAML into types that refuse impossible combinations."""
