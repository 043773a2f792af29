"""Other forms of the finished checkpoint."""
