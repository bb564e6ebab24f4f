"""One small module per family: its config mapping and its weight-name mapping."""
