"""The ways to fine-tune that are compared."""
