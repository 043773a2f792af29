"""What a run is given and leaves: recipe, source, store, directory, progress."""
