"""The ways to fine-tune: optimizers and extras as parts, and the methods that are composed of them."""
