"""What requests and answers look like. Nothing here computes; `/docs` is made from it."""
