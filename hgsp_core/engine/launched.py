"""How many processes a launcher started for this run; read without torch."""

import os


def launched() -> int:
    """`WORLD_SIZE`, as torchrun and accelerate set it; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))
