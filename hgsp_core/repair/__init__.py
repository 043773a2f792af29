"""The kept weights refitted, block by block, to compensate for the removed ones."""
