"""minieff: efficient Transformers, one technique a file."""
