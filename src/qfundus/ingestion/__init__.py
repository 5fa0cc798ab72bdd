"""From the landing bucket to curated objects, or to quarantine with a reason."""
