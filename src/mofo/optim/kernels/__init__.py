"""Fast back ends of the update rule; each equals `mofo.optim.rule` to the bit."""
