"""What others bring, read in one place."""
