"""`refseg data`: one file per verb of the group."""
