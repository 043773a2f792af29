"""What a model is made of: architecture as data, and the layout of one checkpoint."""
