"""Small learnable data sets, drawn by code in the true on-disk formats: `python -m data.samples detection DIR`."""
