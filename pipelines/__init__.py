"""The order of the steps: one KFP graph a file."""
