"""The HTTP service over the public names of vecmeta: thin routes, nothing of the engine done again."""
