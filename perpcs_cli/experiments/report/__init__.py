"""One page of what was found: what is gathered from files, how it is drawn, and the page around it."""
