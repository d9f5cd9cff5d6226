"""Fine-tuning: recipes, models, data and methods, on trl and transformers."""
