"""The runtimes that are compared, one module each: its environment, its conversion of the weights, its worker."""
