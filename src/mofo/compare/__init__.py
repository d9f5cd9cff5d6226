"""`mofo compare`: one base, several methods, the same data in the same order."""
