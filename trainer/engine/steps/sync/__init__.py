"""How the gradients of several processes become those of one update."""
