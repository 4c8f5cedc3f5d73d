"""Sparse autoencoders of the field's formats, read into one common form."""
