"""Meta-learned heads: a notion of similarity from a handful of examples."""
