"""Files that appear whole or not at all, their digests and locks, and what is written in them."""
