"""Membership inference: attacks, protocols and what they find."""
