"""The truth in SQL: collections, items with their base vectors, judgements, head versions and which of them is live."""
