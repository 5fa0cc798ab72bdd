"""The classical network."""
