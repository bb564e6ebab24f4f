"""What export and quantize share: looking at a graph, changing it, and writing it with its weights. No torch here."""
