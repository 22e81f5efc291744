"""A recipe made concrete and carried through, and the way back from an artefact."""
