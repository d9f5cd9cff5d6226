"""Base models: found, loaded, and looked into."""
