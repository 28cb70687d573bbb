"""A procedural world: pictures, clips, phrases and exact masks, drawn from a seed without any download."""
