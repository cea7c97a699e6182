"""Reptile (Nichol et al. 2018): the same head and inner loop; the start is moved towards what a few steps on one task make of it.

No gradient runs through the inner loop: while a task is practised on, its loss is that of the whole task, support and test.
"""

from __future__ import annotations

from vecmeta.meta.methods import fomaml

BATCHED, OUTER = True, "reptile"
initial = fomaml.initial
memory = fomaml.memory
