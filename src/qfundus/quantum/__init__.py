"""The quantum circuit and its exact simulation."""
