"""Augmentation: functions from Example to Example, and the closed set of steps that a recipe may name."""
