"""Tokenizers: from phrases to ids, each with the vocabulary it reads."""
