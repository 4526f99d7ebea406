"""Looking at what is there: where a workspace stands, what a file holds, whether all of it is whole."""
