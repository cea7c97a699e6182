"""An index in Milvus: how to reach it, what an item is there, and searches; `vecmeta.shelves.milvus` says who builds what when."""
