"""Images and clips as files, and drawing on them; this room knows no dataset."""
