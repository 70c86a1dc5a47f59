"""Training from scratch, on nn.Module."""
