"""Models: loading them, their weights by name, their precision and their memory."""
