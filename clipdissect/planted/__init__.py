"""What `clipdissect.testing` offers."""
