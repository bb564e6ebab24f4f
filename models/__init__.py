"""The PyTorch side: what a GPT is and where its weights come from. Importing this package loads no torch."""
