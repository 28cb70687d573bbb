"""Training: a recipe becomes a run folder with checkpoints, a log and a model card."""
