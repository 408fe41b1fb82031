"""Learnable models on one flat float32 vector, and their training in NumPy."""
