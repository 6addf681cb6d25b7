"""Text of many forms to batches of tokens: read, tokenised once into a file, drawn by integers."""
