"""Phase diagrams from the table of a sweep: cells over seeds, limits, marks, and sentences of them."""
