"""A full check of a data folder before a run: what is wrong, where, and how to mend it."""
