"""Model versions in MLflow and the model repository of Triton."""
