"""The hybrid of the classical and the quantum form: mixed, exported as one graph, measured and reported."""
