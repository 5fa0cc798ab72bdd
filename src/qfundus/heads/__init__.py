"""Heads: small models on stored embeddings, one classical and one quantum, trained by the same loop."""
