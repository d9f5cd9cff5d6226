"""How moments are kept between steps and in checkpoints."""
