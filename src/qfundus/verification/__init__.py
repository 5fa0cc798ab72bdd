"""Verify de-identified files with no code of what wrote them."""
