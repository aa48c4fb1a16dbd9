"""State and counts in, words and pictures out."""
