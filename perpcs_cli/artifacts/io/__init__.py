"""What all formats share: atomic files, journals, digests, safe paths, tensors, provenance and locks."""
