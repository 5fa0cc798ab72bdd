"""The ensemble of both, its evaluation, the gate and the report."""
