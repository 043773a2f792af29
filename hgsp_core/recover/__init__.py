"""Training after the cut: records by name, rows of tokens with prompts masked, and the training itself (transformers.Trainer)."""
