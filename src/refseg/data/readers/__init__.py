"""One file for each form in which datasets are published; each ends in a PhraseDataset."""
