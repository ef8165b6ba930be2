"""What goes in: one file per data set, each a Dataset and a LightningDataModule, and what they share.

`images.py` is the only place that opens an image, `loading.py` the only one that orders samples and seeds them, and
`transforms.py` the only one that knows the augmentation library. Every batch carries uint8 RGB; the model normalises.
"""
