"""What a run tells: its costs, its table, its files. Nothing here imports torch."""
