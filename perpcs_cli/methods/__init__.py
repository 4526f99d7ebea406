"""What the papers say: small functions over arrays, each naming its equation."""
