"""What is there for speed: layers in the form that each backend runs fastest, and gates for second derivatives."""
