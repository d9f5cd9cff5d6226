"""`mofo sft`, `mofo dpo` and `mofo grpo`: trl's own commands, with a method of the workbench in the trainer."""
