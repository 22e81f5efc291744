"""What lies on disk: files that appear whole or not at all, tensors with a story, where figures come from."""
