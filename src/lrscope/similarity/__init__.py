"""How alike two networks' activations are."""
