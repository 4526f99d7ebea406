"""Plots as SVG, drawn by hand: their colours are the page's own."""
