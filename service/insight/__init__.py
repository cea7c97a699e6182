"""What the console shows of a collection as a whole: its metadata fields, its map, and what is worth labelling next. Pure functions of rows."""
