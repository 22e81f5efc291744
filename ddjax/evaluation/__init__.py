"""How well trained networks do, and what distilled data are measured against."""
