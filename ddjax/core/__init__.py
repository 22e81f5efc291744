"""Pure functions on pytrees: distilled data, losses, inner loop, initialisations, outer loop."""
