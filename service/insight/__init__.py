"""What the console shows of a whole collection: its metadata fields, its map, what is worth labelling next. Pure functions of rows."""
