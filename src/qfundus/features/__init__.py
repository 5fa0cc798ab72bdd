"""What is known of an eye: embeddings, acquisition features and the feature store."""
